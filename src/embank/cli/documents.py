"""`embank get`, `list` and `delete`: documents by id and by metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import output
from embank.cli.opening import open_collection
from embank.cli.options import CollectionName, Invocation, WhereFilter, on_bank, parsed_where
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.remote.surface import OpenCollection
    from embank.store.protocol import StoredDocument

_PAGE = 1_000
_IDS_SHOWN = 20


@on_bank
def get(
    invocation: Invocation,
    *,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of documents.")],
    collection: CollectionName = "default",
) -> None:
    """Show documents by their ids, whole.

    [bold]embank get notes/plan.md -c notes[/bold]
    """
    with open_collection(invocation, collection, "read") as opened:
        found = opened.get(ids)
    if invocation.as_json:
        output.write_json({"collection": collection, "documents": [document.as_dict() for document in found]})
        return
    from rich.text import Text

    for document in found:
        head = Text(output.plain(document.id), style="bold")
        head.append(f"  {_facts(document)}", style="dim")
        output.show(head, Text(output.plain(document.text, lines=True)), "")


@on_bank
def list_(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", help="At most so many.")] = 100,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only ids behind this one.")] = None,
    where: WhereFilter = None,
) -> None:
    """List documents in the order of their ids.

    [bold]embank list -c notes --limit 20 --where '{"year": {"$gte": 2020}}'[/bold]
    """
    with open_collection(invocation, collection, "read") as opened:
        found = opened.list(limit=limit, after=after, where=parsed_where(where))
        total = opened.count()
    last = found[-1].id if len(found) == limit else None
    if invocation.as_json:
        documents = [document.as_dict() for document in found]
        output.write_json({"collection": collection, "documents": documents, "next_after": last})
        return
    if not found:
        output.say(f"no documents match (of {total:,} in {collection})")
        return
    made = output.table("id", "passages", "changed", "metadata", "text", numbers=["passages"])
    for document in found:
        output.add_row(
            made,
            document.id,
            f"{document.chunks:,}",
            output.moment(document.changed),
            output.one_line(_metadata(document.metadata), 60),
            output.one_line(document.text, 60),
        )
    output.show(made)
    if last is not None and len(found) < total:
        output.say(f"{len(found):,} shown; go on with --after {output.plain(last)!r}")


@on_bank
def delete(
    invocation: Invocation,
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Ids of documents.")] = None,
    collection: CollectionName = "default",
    where: WhereFilter = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete documents by ids or by metadata. On a terminal it asks first; elsewhere it wants --yes.

    [bold]embank delete a1 a2 --yes[/bold]

    [bold]embank delete --where '{"year": {"$lt": 2020}}' --dry-run[/bold]
    """
    condition = parsed_where(where)
    if bool(ids) == (condition is not None):
        raise InvalidInput("give ids or --where, one of the two")
    with open_collection(invocation, collection, "read" if dry_run else "change") as opened:
        doomed = _matching(opened, ids, condition)
        if not dry_run and doomed and not yes:
            _ask(doomed, collection)
        gone = 0
        if doomed and not dry_run:
            gone = opened.delete(doomed) if condition is None else opened.delete(where=condition)
    if invocation.as_json:
        output.write_json(
            {
                "collection": collection,
                "matched": len(doomed),
                "deleted": gone,
                "dry_run": dry_run,
                "ids": doomed[:1_000],
            }
        )
        return
    if dry_run:
        output.say(f"would delete {output.counted(len(doomed), 'document')} of {collection}{_few(doomed)}")
    else:
        output.say(f"deleted {output.counted(gone, 'document')} of {collection}")


def _matching(collection: OpenCollection, ids: Sequence[str] | None, where: Mapping[str, Any] | None) -> list[str]:
    """The ids that a deletion would take. `DocumentNotFound` where one of `ids` is not there."""
    if where is None:
        return [document.id for document in collection.get(list(dict.fromkeys(ids or ())))]
    found: list[str] = []
    while True:
        page = collection.list(limit=_PAGE, after=found[-1] if found else None, where=where)
        found += [document.id for document in page]
        if len(page) < _PAGE:
            return found


def _ask(doomed: Sequence[str], collection: str) -> None:
    """Go on only after a yes."""
    what = f"{output.counted(len(doomed), 'document')} of {collection}{_few(doomed)}"
    if not sys.stdin.isatty():
        raise InvalidInput(f"this deletes {what}: say --yes", matched=len(doomed))
    if not typer.confirm(f"Delete {what}?", err=True):
        raise typer.Exit


def _few(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    shown = ", ".join(output.one_line(each, 80) for each in ids[:_IDS_SHOWN])
    return f": {shown}" + (", …" if len(ids) > _IDS_SHOWN else "")


def _facts(document: StoredDocument) -> str:
    facts = [output.counted(document.chunks, "passage"), f"changed {output.moment(document.changed)}"]
    if document.metadata:
        facts.append(output.plain(_metadata(document.metadata)))
    return " · ".join(facts)


def _metadata(metadata: Mapping[str, Any]) -> str:
    return json.dumps(dict(metadata), ensure_ascii=False) if metadata else ""

"""`embank compact` and `embank purge`: what is dead goes from the disk, and documents go by a rule."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import errors, output
from embank.cli.opening import open_bank, open_collection
from embank.cli.options import CollectionName, Invocation, WhereFilter, age_s, on_bank, parsed_where
from embank.cli.progress import Doing, showing
from embank.errors import CollectionNotFound, InvalidInput

if TYPE_CHECKING:
    from embank.remote.surface import OpenCollection
    from embank.store.reports import CompactReport, PurgeReport

_IDS_SHOWN = 20


@on_bank
def compact(
    invocation: Invocation,
    *,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", metavar="NAME", help="Only this collection; else all.")
    ] = None,
    due: Annotated[
        bool, typer.Option("--due", help="Only those with as much that is dead as store.compact_dead says.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to do.")] = False,
) -> None:
    """Rewrite vectors and words without those of deleted and replaced passages. Answers stay the same.

    Searches go on meanwhile, and protected collections may be compacted, for no document changes. Ctrl-C leaves a
    collection as it was.

    [bold]embank compact --dry-run[/bold]

    [bold]embank compact -c notes[/bold]
    """
    reports: list[CompactReport] = []
    with open_bank(invocation, "read" if dry_run else "change") as bank:
        names = [info.name for info in bank.collections() if collection in (None, info.name)]
        if collection is not None and not names:
            raise CollectionNotFound(f"there is no collection {collection!r} in {invocation.bank}", name=collection)
        for name in names:
            opened = bank.collection(name)
            planned = opened.compact(dry_run=True)
            if due and not planned.due:
                continue
            reports.append(planned if dry_run else _compacted(invocation, opened))
            if not invocation.as_json:
                _tell_compacted(reports[-1])
    if invocation.as_json:
        output.write_json({"bank": str(invocation.bank), "collections": [report.as_dict() for report in reports]})
    elif not reports:
        output.say("nothing is due" if due else f"{invocation.bank} is empty")


@on_bank
def purge(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="What was last written so long ago: 30d, 12h, 8w.")
    ] = None,
    keep: Annotated[int | None, typer.Option(metavar="N", help="All but the newest N.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="KEY", help="Go by the time under this key of the metadata instead.")
    ] = None,
    where: WhereFilter = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete documents by age, by number or by metadata. On a terminal it asks first; elsewhere it wants --yes.

    --where confines the other rules to what matches it, or stands alone. Ctrl-C stops it safely; the same command goes
    on.

    [bold]embank purge -c logs --older-than 30d --dry-run[/bold]

    [bold]embank purge -c logs --keep 10000 --by published --where '{"kind": "draft"}' --yes[/bold]
    """
    age = None if older_than is None else age_s(older_than)
    condition = parsed_where(where)
    with open_collection(invocation, collection, "read" if dry_run else "change") as opened:
        report = opened.purge(older_than=age, keep=keep, by=by, where=condition, dry_run=True)
        if report.documents and not dry_run and not yes:
            _ask(report)
        if not dry_run:
            doing = Doing(f"purging {collection}")
            with showing(doing, quiet=invocation.as_json):
                report = opened.purge(older_than=age, keep=keep, by=by, where=condition, on_progress=doing.update)
    if invocation.as_json:
        output.write_json(report.as_dict())
    else:
        _tell_purged(report)


def _compacted(invocation: Invocation, opened: OpenCollection) -> CompactReport:
    doing = Doing(f"compacting {opened.name}")

    def tell(report: CompactReport) -> None:
        doing.update(report.fraction, f"{report.copied:,} of {output.counted(report.passages, 'passage')} copied")

    try:
        with showing(doing, quiet=invocation.as_json):
            return opened.compact(on_progress=tell)
    except KeyboardInterrupt as error:
        errors.tell_failure(
            "KeyboardInterrupt",
            f"interrupted at {doing.fraction:.0%}: {opened.name} answers as before; the same command begins again",
            code=errors.INTERRUPTED,
            as_json=invocation.as_json,
            fields={"fraction": doing.fraction},
        )
        raise typer.Exit(errors.INTERRUPTED) from error


def _tell_compacted(report: CompactReport) -> None:
    name = output.plain(report.collection)
    if report.outcome == "nothing to do":
        output.say(f"{name}: nothing to do, none of its {output.counted(report.slots_before, 'vector')} is dead")
        return
    dead = f"{report.dead:,} of {output.counted(report.slots_before, 'vector')}"
    if report.outcome == "would compact":
        output.say(
            f"{name}: {dead} are dead{', and it is due' if report.due else ''}; a compaction would leave about "
            f"{output.size(report.bytes_after)} of {output.size(report.bytes_before)} on the disk"
        )
        return
    left = f"; {output.size(report.left_bytes)} go once nobody reads them" if report.left_bytes else ""
    output.say(
        f"{name}: {dead} were dead and are gone: {output.size(report.bytes_before)} before, "
        f"{output.size(report.bytes_after)} now, in {output.duration(report.seconds)}{left}"
    )


def _tell_purged(report: PurgeReport) -> None:
    name = output.plain(report.collection)
    what = f"{output.counted(report.documents, 'document')} of {name} ({output.plain(report.rule)})"
    if report.dry_run:
        output.say(f"would delete {what}{_few(report)}")
    else:
        output.say(f"deleted {what}; {report.remaining:,} are left")
    if report.undated:
        output.say(f"{output.counted(report.undated, 'document')} without a time that can be read stay")
    if report.due and not report.dry_run:
        output.say(f"its vectors are still on the disk: embank compact -c {name}")


def _ask(report: PurgeReport) -> None:
    what = f"{output.counted(report.documents, 'document')} of {report.collection}{_few(report)}"
    if not sys.stdin.isatty():
        raise InvalidInput(f"this deletes {what}: say --yes", matched=report.documents)
    if not typer.confirm(f"Delete {what}?", err=True):
        raise typer.Exit


def _few(report: PurgeReport) -> str:
    if not report.ids:
        return ""
    shown = ", ".join(output.one_line(each, 80) for each in report.ids[:_IDS_SHOWN])
    return f": {shown}" + (", …" if report.documents > _IDS_SHOWN else "")

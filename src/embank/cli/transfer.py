"""`embank export` and `embank import`: a collection as one file, out and in again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import output
from embank.cli.opening import open_own_bank, open_own_collection
from embank.cli.options import CollectionName, Invocation, WhereFilter, on_bank, parsed_where
from embank.cli.progress import Doing, showing
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.transfer.reports import ExportReport, ImportReport

_STANDARD_STREAM = "-"


@on_bank
def export(
    invocation: Invocation,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help=".jsonl, .jsonl.gz or .parquet; - is standard output (JSON lines).")
    ],
    *,
    collection: CollectionName = "default",
    vectors: Annotated[bool, typer.Option("--vectors", help="Vectors, too, byte for byte as they are stored.")] = False,
    where: WhereFilter = None,
    kind: Annotated[
        str | None, typer.Option("--as", metavar="FORMAT", help="jsonl or parquet, whatever the file's name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a collection to a file: ids, texts, metadata, passages and, when asked, vectors.

    It is one state of the collection, also while others write it. The file is there as a whole or not at all.

    [bold]embank export notes.jsonl.gz -c notes --vectors[/bold]

    [bold]embank export - --where '{"year": 2024}' | jq .id[/bold]
    """
    piped = file == _STANDARD_STREAM
    if piped and invocation.as_json:
        raise InvalidInput("- and --json both want standard output: name a file")
    doing = Doing(f"exporting {collection}")
    with (
        open_own_collection(invocation, collection, "read") as opened,
        showing(doing, quiet=invocation.as_json or piped),
    ):
        report = opened.export(
            file, vectors=vectors, where=parsed_where(where), kind=kind, overwrite=force, on_progress=doing.update
        )
    if invocation.as_json:
        output.write_json(report.as_dict())
    elif not piped:
        _tell_exported(report)


@on_bank
def import_(
    invocation: Invocation,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What embank export wrote; - is standard input.")],
    *,
    collection: CollectionName = "default",
    embed: Annotated[
        bool, typer.Option("--embed", help="Embed the texts with the collection's own model; leave the file's vectors.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file; only say what would be done.")] = False,
) -> None:
    """Put the documents of an exported file into a collection, each in place of the one with its id.

    Vectors of the collection's own model are taken over as they are, and nothing is embedded. The whole file is checked
    before anything is written. Ctrl-C stops it safely; the same command goes on.

    [bold]embank import notes.jsonl.gz -c notes --dry-run[/bold]
    """
    from embank.transfer.transfers import opened as opened_file

    if file != _STANDARD_STREAM:
        with opened_file(file):  # before a bank is made for a file that is none
            pass
    doing = Doing(f"importing into {collection}")
    with (
        open_own_bank(invocation, "create", tells_loads=True) as bank,
        showing(doing, quiet=invocation.as_json),
    ):
        report = bank.collection(collection).import_file(file, embed=embed, dry_run=dry_run, on_progress=doing.update)
    if invocation.as_json:
        output.write_json(report.as_dict())
    else:
        _tell_imported(report)


def _tell_exported(report: ExportReport) -> None:
    what = f"{output.counted(report.documents, 'document')} of {output.plain(report.collection)}"
    vectors = f" with {output.counted(report.vectors, 'vector')} as {report.dtype}" if report.vectors else ""
    output.say(
        f"wrote {what}{vectors} to {output.plain(report.file)}, {output.size(report.bytes)}, in "
        f"{output.duration(report.seconds)}"
    )


def _tell_imported(report: ImportReport) -> None:
    counts = {
        "added": report.added,
        "updated": report.updated,
        "with other metadata": report.relabeled,
        "unchanged": report.unchanged,
        "more than once": report.duplicates,
    }
    parts = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count) or "nothing"
    how = f"{report.embedded:,} embedded" if not report.vectors else f"{report.vectors:,} vectors taken over"
    if report.vectors and not report.exact:
        how += ", in the collection's own precision"
    would = "would be " if report.dry_run else ""
    output.say(
        f"{output.plain(report.file)} into {output.plain(report.collection)}: "
        f"{output.counted(report.documents, 'document')} {would}imported: {parts}; {how}"
        f" ({output.duration(report.seconds)})"
    )

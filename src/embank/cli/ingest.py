"""`embank index` and `embank add`: documents go in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import errors, output
from embank.cli.opening import open_bank
from embank.cli.options import CollectionName, Invocation, LanguageName, MetricName, json_object, on_bank
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.cli.sources import Named
    from embank.pipeline import IngestReport
    from embank.remote.surface import OpenBank

_SAMPLES_SHOWN = 3
_STDIN_LIMIT_BYTES = 8 << 20
"""More than a document's text may have: what is read of standard input before it is refused."""

_FIELDS = ("seen", "added", "updated", "relabeled", "unchanged", "duplicates", "conflicts", "vanished", "pruned")


@on_bank
def index(
    invocation: Invocation,
    *,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES...", help="Folders, files, .jsonl[.gz] or .parquet files, - (JSON lines) or stdlib."
        ),
    ],
    collection: CollectionName = "default",
    kind: Annotated[
        str | None,
        typer.Option("--as", metavar="KIND", help="Read them as text, jsonl, parquet, docstrings or stdlib."),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only files that match; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="No files or folders that match; may be repeated.")
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Hidden files and folders, too.")] = False,
    no_gitignore: Annotated[bool, typer.Option("--no-gitignore", help="Also what .gitignore leaves out.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete documents whose source is gone.")] = False,
    metric: MetricName = None,
    language: LanguageName = None,
) -> None:
    """Bring a collection in step with folders and files.

    New and changed documents are embedded, unchanged ones are not: run it again at any time. Ctrl-C stops it safely;
    the same command goes on.

    [bold]embank index ~/notes --include '*.md'[/bold]

    [bold]zcat dump.jsonl.gz | embank index - -c dump[/bold]
    """
    invocation = _with_source_settings(
        invocation, include=include, exclude=exclude, hidden=hidden, no_gitignore=no_gitignore
    )
    settings = invocation.config().section("source")
    from embank.cli.sources import named_source

    named = [named_source(name, kind=kind, settings=settings) for name in sources]
    _refuse_missing(named)
    run = _Run(invocation, collection, prune=prune, metric=metric, language=language)
    with open_bank(invocation, "create") as bank:
        run.index(bank, named)
    if invocation.as_json:
        output.write_json(run.as_dict())
    else:
        run.show()


@on_bank
def add(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="The text itself.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="A UTF-8 file that holds the text.")] = None,
    id: Annotated[  # noqa: A002 -- the flag's name
        str | None, typer.Option("--id", metavar="ID", help="The document's id; without it the text's hash.")
    ] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON", help="A JSON object of metadata.")] = None,
    metric: MetricName = None,
    language: LanguageName = None,
) -> None:
    """Add one document, or replace the one with its id.

    The text comes from --text, from --file, or from standard input.

    [bold]embank add --id a1 --text 'Rivers carry silt.' --metadata '{"year": 2024}'[/bold]
    """
    if text is not None and file is not None:
        raise InvalidInput("give --text or --file, not both")
    given = json_object(metadata, flag="--metadata", example='{"year": 2024}') if metadata is not None else {}
    content = _text(text, file)
    with open_bank(invocation, "create", tells_loads=True) as bank:
        from embank.source.rows import content_id

        name = content_id(content) if id is None else id
        opened = bank.collection(collection, metric=metric, language=language)
        report = opened.add([{"id": name, "text": content, "metadata": given}])
        total = opened.count()
    if invocation.as_json:
        output.write_json({"collection": collection, "id": name, "count": total, "report": report.as_dict()})
        return
    counts = {"added": report.added, "updated": report.updated, "metadata updated": report.relabeled}
    done = next((word for word, count in counts.items() if count), "unchanged, nothing to embed")
    output.say(f"{output.plain(name)}: {done} ({output.counted(total, 'document')} in {collection})")


class _Run:
    """The indexing of several sources into one collection, and what came of it."""

    def __init__(
        self, invocation: Invocation, collection: str, *, prune: bool, metric: str | None, language: str | None
    ) -> None:
        self._invocation = invocation
        self._collection = collection
        self._metric = metric
        self._language = language
        self._prune = prune
        self._reports: list[tuple[Named, IngestReport]] = []
        self._live: IngestReport | None = None

    def index(self, bank: OpenBank, sources: Sequence[Named]) -> None:
        """Read every source in turn. Ctrl-C ends the process with what is safe told."""
        try:
            for named in sources:
                self._index(bank, named)
        except KeyboardInterrupt as error:
            written = self._written()
            safe = f"{output.counted(written, 'document')} written by this run safe in {self._invocation.bank}"
            told = f"interrupted, with {safe}; run the same command again to go on"
            errors.tell_failure(
                "KeyboardInterrupt",
                told,
                code=errors.INTERRUPTED,
                as_json=self._invocation.as_json,
                fields={"safe_documents": written, "bank": str(self._invocation.bank)},
            )
            raise typer.Exit(errors.INTERRUPTED) from error

    def _index(self, bank: OpenBank, named: Named) -> None:
        from embank.cli.loading import LOADS
        from embank.cli.progress import Progress, showing

        progress = Progress(named.name, bank.memory)

        def heard(report: IngestReport) -> None:
            self._live = report
            progress.update(report)

        with bank.events.subscribe(progress.hear, kinds=LOADS), showing(progress):
            report = bank.collection(self._collection, metric=self._metric, language=self._language).index(
                named.make, prune=self._prune, on_progress=heard
            )
        self._live = None
        self._reports.append((named, report))

    def _written(self) -> int:
        """Documents that this run has written durably, as far as it was told."""
        reports = [report for _, report in self._reports] + ([] if self._live is None else [self._live])
        return sum(report.added + report.updated + report.relabeled for report in reports)

    def total(self) -> dict[str, Any]:
        """The sums over all sources."""
        reports = [report for _, report in self._reports]
        sums: dict[str, Any] = {
            name: sum(getattr(report, name) for report in reports)
            for name in (*_FIELDS, "surplus", "embedded", "chunks", "commits", "seconds")
        }
        skipped: dict[str, int] = {}
        for report in reports:
            for reason, count in report.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        return {**sums, "skipped": dict(sorted(skipped.items(), key=lambda item: -item[1]))}

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "bank": str(self._invocation.bank),
            "collection": self._collection,
            "sources": [
                {"source": named.name, "kind": named.kind, **report.as_dict()} for named, report in self._reports
            ],
            "total": self.total(),
        }

    def show(self) -> None:
        """For people."""
        total = self.total()
        made = output.table("documents", "count", "", numbers=["count"])
        for name, note in _notes(total, pruned=self._prune):
            if total[name] or name in ("seen", "added", "unchanged"):
                label = "metadata only" if name == "relabeled" else name
                output.add_row(made, label, f"{total[name]:,}", note)
        for reason, count in total["skipped"].items():
            output.add_row(made, f"skipped: {reason}", f"{count:,}", self._samples(reason))
        output.show(made)
        output.say(self._closing(total))

    def _samples(self, reason: str) -> str:
        found = [
            f"{origin} ({detail})" if detail else origin
            for _, report in self._reports
            for origin, why, detail in report.samples
            if why == reason
        ]
        shown = "; ".join(output.one_line(sample, 100) for sample in found[:_SAMPLES_SHOWN])
        return shown + ("; …" if len(found) > _SAMPLES_SHOWN else "")

    def _closing(self, total: dict[str, Any]) -> str:
        took = output.duration(total["seconds"])
        if not total["seen"]:
            return f"nothing to index: no documents found ({took})"
        if not total["embedded"]:
            unchanged = output.counted(total["unchanged"], "document")
            return f"nothing to embed: {unchanged} unchanged ({took})"
        rate = total["chunks"] / total["seconds"] if total["seconds"] else 0
        passages = output.counted(total["chunks"], "passage")
        return (
            f"embedded {output.counted(total['embedded'], 'document')} as {passages} in {took} ({rate:,.0f} texts/s) "
            f"into {self._collection} of {self._invocation.bank}"
        )


def _notes(total: dict[str, Any], *, pruned: bool) -> list[tuple[str, str]]:
    vanished = "deleted, see below" if pruned else "no longer in the source, kept; --prune deletes them"
    return [
        ("seen", ""),
        ("added", ""),
        ("updated", ""),
        ("relabeled", "same text, other metadata: not embedded again"),
        ("unchanged", "not embedded again"),
        ("duplicates", "an id that came again in this run; the last one stands"),
        ("conflicts", "an id that another source holds; left out"),
        ("vanished", vanished if total["vanished"] else ""),
        ("pruned", ""),
        ("surplus", "parts of files that shrank, deleted"),
    ]


def _with_source_settings(
    invocation: Invocation, *, include: list[str] | None, exclude: list[str] | None, hidden: bool, no_gitignore: bool
) -> Invocation:
    given: list[tuple[str, object, str]] = []
    if include:
        given.append(("source.include", include, "--include"))
    if exclude:
        given.append(("source.exclude", exclude, "--exclude"))
    if hidden:
        given.append(("source.hidden", True, "--hidden"))
    if no_gitignore:
        given.append(("source.gitignore", False, "--no-gitignore"))
    for key, value, flag in given:
        invocation = invocation.having(key, value, flag=flag)
    return invocation


def _refuse_missing(sources: Sequence[Named]) -> None:
    """Open each source once for nothing, so that a misspelt one is told before the bank is made and a model loaded."""
    for named in sources:
        named.make(lambda *_: None)


def _text(text: str | None, file: Path | None) -> str:
    if text is not None:
        return text
    if file is None and sys.stdin.isatty():
        raise InvalidInput("no text given: use --text, --file, or standard input")
    where = "standard input" if file is None else str(file)
    data = sys.stdin.buffer.read(_STDIN_LIMIT_BYTES) if file is None else _read(file)
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{where} is not UTF-8 text, at byte {error.start}; `embank index` reads other encodings"
        ) from error
    if not decoded.strip():
        raise InvalidInput(f"{where} holds no text")
    return decoded


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_STDIN_LIMIT_BYTES)
    except OSError as error:
        raise InvalidInput(f"{file} can't be read: {error.strerror or error}", path=str(file)) from error

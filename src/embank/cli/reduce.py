"""`embank reduce fit`, `apply` and `evaluate`: a collection's vectors in fewer bytes, and what that does to answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import errors, output
from embank.cli.opening import open_own_collection
from embank.cli.options import CollectionName, Invocation, on_bank
from embank.cli.progress import Doing, showing
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.reduce.evaluate import Evaluation, Line
    from embank.reduce.reports import ApplyReport, FitReport

Sample = Annotated[int, typer.Option("--sample", metavar="N", help="Vectors drawn from the collection, at most.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Draws another sample.")]
RecallAt = Annotated[int, typer.Option("-k", metavar="N", help="Recall is counted in the best so many.")]

_SAMPLE = 20_000
_NAMES = {"full": "all dimensions", "cut": "cut (Matryoshka)", "PCA": "PCA"}


@on_bank
def fit(
    invocation: Invocation,
    *,
    dimensions: Annotated[int, typer.Option("--dimensions", "-d", metavar="N", help="How narrow vectors become.")],
    collection: CollectionName = "default",
    sample: Sample = _SAMPLE,
    seed: Seed = 0,
    k: RecallAt = 10,
) -> None:
    """Fit a PCA on a collection's own vectors, show what it keeps, and keep it for `embank reduce apply`.

    Nothing else changes yet. Recall is measured with one half of the sample fitting and the other half searched; what
    is kept is fitted on the whole of it.

    [bold]embank reduce fit -c notes --dimensions 128[/bold]
    """
    with open_own_collection(invocation, collection, "change") as opened:
        doing = Doing(f"fitting {collection} to {dimensions}")
        with showing(doing, quiet=invocation.as_json):
            report = opened.reducer().fit(dimensions, sample=sample, seed=seed, k=k, on_progress=doing.update)
    if invocation.as_json:
        output.write_json(report.as_dict())
    else:
        _show_fit(report)


@on_bank
def apply(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    into: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Leave the collection as it is, and put documents and vectors into NAME."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Also store them as fp16 or int8; else as they are now.")
    ] = None,
) -> None:
    """Rewrite a collection's vectors with the PCA that was fitted last, or with --dtype alone. Nothing is embedded.

    Searches go on meanwhile, and questions are reduced likewise from then on. In its place the wider vectors are gone
    afterwards (embank reembed makes them anew); --into keeps both. Ctrl-C stops it safely; the same command goes on.

    [bold]embank reduce apply -c notes --into notes-128[/bold]

    [bold]embank reduce apply -c notes --dtype int8[/bold]
    """
    with open_own_collection(invocation, collection, "change") as opened:
        doing = Doing(f"reducing {collection}")
        try:
            with showing(doing, quiet=invocation.as_json):
                report = opened.reducer().apply(into=into, dtype=dtype, on_progress=doing.update)
        except KeyboardInterrupt as error:
            errors.tell_failure(
                "KeyboardInterrupt",
                f"interrupted at {doing.fraction:.0%}; {collection} is as it was, and the same command goes on",
                code=errors.INTERRUPTED,
                as_json=invocation.as_json,
                fields={"fraction": doing.fraction},
            )
            raise typer.Exit(errors.INTERRUPTED) from error
    if invocation.as_json:
        output.write_json(report.as_dict())
    else:
        _show_applied(report)


@on_bank
def evaluate(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own questions, one a line; - for standard input. Else some are drawn."),
    ] = None,
    dimensions: Annotated[
        list[int] | None,
        typer.Option("--dimensions", "-d", metavar="N", help="A width for PCA; may be repeated. Else four are tried."),
    ] = None,
    k: RecallAt = 10,
    sample: Sample = _SAMPLE,
    seed: Seed = 0,
) -> None:
    """Compare ways to make a collection's vectors smaller: bytes, and recall against the vectors as they are.

    One half of a sample fits each PCA, the other half is searched. Nothing is changed.

    [bold]embank reduce evaluate -c notes --queries questions.txt[/bold]
    """
    given = None if queries is None else _lines(queries)
    with open_own_collection(invocation, collection, "read") as opened:
        doing = Doing(f"comparing {collection}")
        with showing(doing, quiet=invocation.as_json):
            evaluation = opened.reducer().evaluate(
                queries=given, dimensions=dimensions or (), k=k, sample=sample, seed=seed, on_progress=doing.update
            )
    if invocation.as_json:
        output.write_json(evaluation.as_dict())
    else:
        _show_evaluation(evaluation)


def _show_fit(report: FitReport) -> None:
    name = output.plain(report.collection)
    output.say(
        f"{name}: a PCA from {report.width} to {report.dimension} dimensions, fitted on {report.rows:,} of "
        f"{output.counted(report.passages, 'vector')}; version {report.version}",
        f"explained variance  {report.explained:.1%}",
    )
    if report.judged is None:
        output.say("recall              not measured: a half of the sample has fewer vectors than dimensions")
    else:
        output.say(
            f"recall@{report.k:<12} {_recall(report.judged)} of the vectors as they are",
            f"                    asked: {output.plain(report.asked)}",
        )
    output.say(
        f"vectors             {output.size(report.bytes_before)} now, {output.size(report.bytes_after)} then "
        f"({report.saved:.0%} less), as {report.dtype}"
    )
    if report.warning:
        output.say(f"warning: {report.warning}")
    output.say(f"apply it: embank reduce apply -c {name} (or with --into NAME, beside it)")


def _show_applied(report: ApplyReport) -> None:
    output.say(
        f"{output.plain(report.into)}: {output.counted(report.passages, 'vector')} of {report.dimension} dimensions as "
        f"{report.dtype}: {output.size(report.bytes_before)} before, {output.size(report.bytes_after)} now "
        f"({report.saved:.0%} less), in {output.duration(report.seconds)}"
    )


def _show_evaluation(evaluation: Evaluation) -> None:
    numbers = ["dimensions", "bytes each", "all vectors", f"recall@{evaluation.k}", "explained"]
    made = output.table("way", numbers[0], "stored as", *numbers[1:], numbers=numbers)
    for line in evaluation.lines:
        output.add_row(
            made,
            _NAMES.get(line.name, line.name),
            str(line.dimension),
            line.dtype + (" (now)" if (line.dtype, line.name) == (evaluation.dtype, "full") else ""),
            f"{line.bytes_each:,}",
            output.size(line.bytes_total),
            _recall(line),
            None if line.explained is None else f"{line.explained:.1%}",
        )
    output.show(made)
    output.say(
        f"{output.plain(evaluation.collection)}: {output.counted(evaluation.passages, 'vector')} of "
        f"{output.plain(evaluation.fingerprint)}",
        f"{evaluation.searched:,} were searched; {evaluation.fitted_on:,} others fitted each PCA; recall against the "
        f"vectors as they are, with its 95 % interval",
        f"asked: {output.plain(evaluation.asked)}",
        *(f"left out: {reason}" for reason in evaluation.left_out),
    )


def _recall(line: Line) -> str:
    return f"{line.recall:.3f} ({line.recall_low:.3f}–{line.recall_high:.3f})"


def _lines(path: Path) -> list[str]:
    """The lines of a file of questions, or of standard input."""
    if str(path) == "-":
        return sys.stdin.read().splitlines()
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is no UTF-8 text: byte {error.start} can't be read", path=str(path)) from error

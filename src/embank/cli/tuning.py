"""`embank search evaluate` and `tune`: how good answers are by pairs of the user's own, and weights that fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import output
from embank.cli.opening import open_own_collection
from embank.cli.options import CollectionName, Invocation, on_bank
from embank.cli.progress import Doing, showing
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embank.search.measures import Estimate
    from embank.search.tuning import EvaluateReport, TuneReport

_PAIRS = '{"question": "how do I undo a commit", "id": "git/reset.md"}'

PairsFile = Annotated[
    Path | None,
    typer.Option("--pairs", metavar="FILE", help=f"JSON lines, such as {_PAIRS}; ids for several right documents."),
]
Depth = Annotated[int, typer.Option("-k", metavar="N", help="The first so many of an answer count.")]


@on_bank
def evaluate(
    invocation: Invocation, *, pairs: PairsFile = None, collection: CollectionName = "default", k: Depth = 10
) -> None:
    """Measure how well dense, lexical and hybrid search find the documents that you know to be right.

    Recall, MRR and nDCG, each with its 95 % interval. Nothing is changed.

    [bold]embank search evaluate -c notes --pairs pairs.jsonl[/bold]
    """
    file = _given(pairs, "evaluate")
    with open_own_collection(invocation, collection, "read", tells_loads=True) as opened:
        doing = Doing(f"asking {collection}")
        with showing(doing, quiet=invocation.as_json):
            report = opened.evaluate(file, k=k, on_progress=doing.update)
    if invocation.as_json:
        output.write_json(report.as_dict())
    else:
        _show_evaluation(report)


@on_bank
def tune(
    invocation: Invocation,
    *,
    pairs: PairsFile = None,
    collection: CollectionName = "default",
    k: Depth = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be kept.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Take away what was kept: go by the settings again.")] = False,
) -> None:
    """Fit how a collection's hybrid searches weigh words and vectors, on questions of yours and their documents.

    What is fitted is measured on questions that it was not fitted on, and kept with the collection only where that
    gains more than chance. embank stats shows it; --reset takes it away.

    [bold]embank search tune -c notes --pairs pairs.jsonl --dry-run[/bold]

    [bold]embank search tune -c notes --reset[/bold]
    """
    if reset and (pairs is not None or dry_run):
        raise InvalidInput("--reset takes away what was kept: it goes with neither --pairs nor --dry-run")
    file = None if reset else _given(pairs, "tune")
    with open_own_collection(invocation, collection, "read" if dry_run else "change", tells_loads=True) as opened:
        if file is None:
            _tell_reset(invocation, collection, opened.untune())
            return
        doing = Doing(f"tuning {collection}")
        with showing(doing, quiet=invocation.as_json):
            report = opened.tune(file, k=k, dry_run=dry_run, on_progress=doing.update)
    if invocation.as_json:
        output.write_json(report.as_dict())
    else:
        _show_tuning(report)


def words(fusion: Mapping[str, Any]) -> str:
    """Weights in words."""
    from embank.search.weights import EVEN, STANDARD

    if fusion["method"] == "coverage":
        return f"scores, full coverage worth {fusion['coverage']:g} deviations"
    weight = fusion["dense_weight"]
    if fusion["method"] == "ranks":
        return f"reciprocal ranks, dense weight {EVEN if weight is None else weight:g}"
    return f"scores, dense weight {STANDARD if weight is None else weight:g}"


def _given(pairs: Path | None, command: str) -> Path:
    if pairs is None:
        raise InvalidInput(
            f"embank search {command} wants --pairs FILE, with lines such as {_PAIRS}; to search for the word itself: "
            f"embank search -- {command}"
        )
    return pairs


def _tell_reset(invocation: Invocation, collection: str, kept: Any) -> None:
    if invocation.as_json:
        output.write_json({"collection": collection, "taken_away": None if kept is None else kept.as_dict()})
    elif kept is None:
        output.say(f"{output.plain(collection)} was not tuned")
    else:
        output.say(f"{output.plain(collection)} goes by the settings again; taken away: {words(kept.fusion)}")


def _show_evaluation(report: EvaluateReport) -> None:
    measured = list(next(iter(report.ways.values())))
    made = output.table("search", *measured, numbers=measured)
    for name, estimates in report.ways.items():
        output.add_row(made, name, *(_told(estimates[measure]) for measure in measured))
    output.show(made)
    tuned = "tuned: " if report.tuned else ""
    output.say(f"{_counts(report)}; in brackets 95 % intervals; hybrid by {tuned}{words(report.fusion)}")


def _show_tuning(report: TuneReport) -> None:
    made = output.table("", *report.before, numbers=list(report.before))
    output.add_row(made, "before", *map(_told, report.before.values()))
    output.add_row(made, "after", *map(_told, report.after.values()))
    output.add_row(made, "gain", *(_told(each, "+") for each in report.gain.values()))
    output.show(made)
    end = {
        "kept": f"kept: {words(report.fusion)}, in place of {words(report.used)}",
        "would be kept": f"would be kept: {words(report.fusion)}, in place of {words(report.used)}",
        "no gain": f"nothing is kept: no weights gained more than chance over {words(report.used)}",
    }[report.outcome]
    output.say(
        f"{_counts(report)}; “after” by weights fitted on the other {report.folds - 1} of {report.folds} parts; "
        "in brackets 95 % intervals",
        end,
    )


def _counts(report: EvaluateReport | TuneReport) -> str:
    told = output.counted(report.questions, "question")
    if report.missing:
        told += f" ({output.counted(report.missing, 'document')} named are not in the collection"
        told += f", {report.left_out:,} questions with none that is)" if report.left_out else ")"
    return told


def _told(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"

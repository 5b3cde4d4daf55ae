"""`embank demo`: the whole of it in a minute, on a corpus that every machine has, measured as it happens.

Indexes the documentation of Python's standard library within a small budget for the whole process tree, asks it real
questions, and gives the memory back. Every figure shown is measured during this very run; a run that broke its budget
or indexed too little ends in an error.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import errors, output
from embank.cli.options import Invocation, configured
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.bank import Bank
    from embank.cli.demo_watch import PeakWatch
    from embank.pipeline import IngestReport
    from embank.records import Hit

BUDGET = "192MB"
LEAST_DOCUMENTS = 7_000
HITS_SHOWN = 3
QUESTIONS = (
    "parse a date from a string",
    "run a command and capture its output",
    "read a CSV file into dictionaries",
    "sort a list by several keys",
    "make an HTTP request",
    "find files matching a pattern recursively",
    "create a temporary directory that cleans itself up",
    "compute a SHA-256 hash",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question brought, and the seconds from asking to having it."""

    question: str
    seconds: float
    hits: list[Hit]


@dataclass(slots=True)
class Outcome:
    """What was measured. Bytes are anonymous + shared of the process tree; `seconds` cover indexing alone."""

    documents: int
    report: IngestReport
    answers: list[Answer]
    budget_bytes: int
    peak_bytes: int
    samples: int
    before_release_bytes: int
    after_release_bytes: int
    conversion_seconds: float | None
    seconds: float
    total_seconds: float = 0.0

    @property
    def texts_per_second(self) -> float:
        return self.report.chunks / self.seconds if self.seconds > 0 else 0.0

    @property
    def shortfall(self) -> tuple[int, str] | None:
        """The exit code and the reason where this run fell short of what it promises."""
        if self.peak_bytes > self.budget_bytes:
            over = f"the peak of {output.size(self.peak_bytes)} broke the budget of {output.size(self.budget_bytes)}"
            return errors.MEMORY, over
        if self.documents < LEAST_DOCUMENTS:
            few = f"only {self.documents:,} documents were indexed, at least {LEAST_DOCUMENTS:,} were to be expected"
            return errors.UNEXPECTED, few
        return None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "documents": self.documents,
            "passages": self.report.chunks,
            "texts_per_second": self.texts_per_second,
            "index_seconds": self.seconds,
            "total_seconds": self.total_seconds,
            "conversion_seconds": self.conversion_seconds,
            "budget_bytes": self.budget_bytes,
            "peak_bytes": self.peak_bytes,
            "samples": self.samples,
            "before_release_bytes": self.before_release_bytes,
            "after_release_bytes": self.after_release_bytes,
            "released_bytes": self.before_release_bytes - self.after_release_bytes,
            "report": self.report.as_dict(),
            "answers": [asdict(answer) for answer in self.answers],
        }


@configured
def demo(
    invocation: Invocation,
    *,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Make the bank here and keep it, to search it further.")
    ] = None,
) -> None:
    """See it work: index Python's own documentation within 192 MB, ask it questions, get the memory back.

    Takes about a minute; nothing is downloaded, and nothing is left behind without --keep.

    [bold]embank demo --keep python.bank[/bold]
    """
    started_s = time.perf_counter()
    invocation = replace(invocation, memory=invocation.memory or BUDGET)
    if keep is not None:
        _check_keep(keep)
    with _place(keep) as folder:
        outcome = _run(invocation, folder)
    outcome.total_seconds = time.perf_counter() - started_s
    shortfall = outcome.shortfall
    if invocation.as_json:
        failed = (
            None if shortfall is None else {"kind": "DemoFellShort", "message": shortfall[1], "exit_code": shortfall[0]}
        )
        output.write_json({**outcome.as_dict(), **({"error": failed} if failed else {})})
    else:
        _show_summary(outcome, keep)
    if shortfall is not None:
        code, reason = shortfall
        if not invocation.as_json:
            errors.tell_failure("DemoFellShort", reason, code=code, as_json=False)
        raise typer.Exit(code)


def _run(invocation: Invocation, folder: Path) -> Outcome:
    """Index, ask, release; measured from before the bank is opened."""
    config = invocation.config()
    from embank.bank import open_bank
    from embank.cli.demo_watch import PeakWatch
    from embank.memory.meter import SystemMeter

    meter = SystemMeter()
    with PeakWatch(meter) as watch, open_bank(folder, config=config, own_process=True) as bank:
        report, seconds, conversion_s = _index(bank, watch)
        answers = []
        for question in QUESTIONS:
            answers.append(_ask(bank, question))
            if not invocation.as_json:
                _show_answer(answers[-1])
        documents = bank.collection().count()
        before = meter.read().tree_bytes
        budget_bytes = bank.memory().budget_bytes
        bank.release()
        after = meter.read().tree_bytes
    return Outcome(
        documents=documents,
        report=report,
        answers=answers,
        budget_bytes=budget_bytes,
        peak_bytes=watch.peak_bytes,
        samples=watch.samples,
        before_release_bytes=before,
        after_release_bytes=after,
        conversion_seconds=conversion_s,
        seconds=seconds,
    )


def _index(bank: Bank, watch: PeakWatch) -> tuple[IngestReport, float, float | None]:
    from embank.cli.demo_watch import DemoProgress
    from embank.cli.progress import showing
    from embank.source.docstrings import StandardLibrary

    progress = DemoProgress("standard library", bank.memory, watch)
    with bank.events.subscribe(progress.hear, capacity=4096), showing(progress):
        report = bank.collection().index(lambda on_skip: StandardLibrary(on_skip=on_skip), on_progress=progress.update)
    return report, report.seconds, progress.conversion_s


def _ask(bank: Bank, question: str) -> Answer:
    started_s = time.perf_counter()
    hits = bank.collection().search(question, k=HITS_SHOWN)
    return Answer(question, time.perf_counter() - started_s, hits)


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    """The folder of the bank: the one to keep, or one that is gone afterwards."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="embank-demo-") as folder:
        yield Path(folder) / "demo.bank"


def _check_keep(keep: Path) -> None:
    from embank.store.schema import check_place

    if not (keep / "FORMAT").exists():
        check_place(keep)
    if not keep.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {keep.absolute().parent} to keep the bank in", path=str(keep))


def _show_answer(answer: Answer) -> None:
    from rich.text import Text

    head = Text(answer.question, style="bold")
    head.append(f"  {output.duration(answer.seconds)}", style="dim")
    lines = [head]
    for hit in answer.hits:
        line = Text(f"  {hit.score:5.2f}  ", no_wrap=True, overflow="ellipsis")
        line.append(output.one_line(hit.id, 44).ljust(44), style="cyan")
        lines.append(line.append(f"  {_first_words(hit.text)}", style="dim"))
    output.show(*lines, "")


def _first_words(text: str) -> str:
    """The first line of the documentation, which stands behind the name and an empty line."""
    _, _, documentation = text.partition("\n\n")
    return output.one_line((documentation or text).strip().partition("\n")[0], 72)


def _show_summary(outcome: Outcome, keep: Path | None) -> None:
    report = outcome.report
    within = "within" if outcome.peak_bytes <= outcome.budget_bytes else "OVER"
    given_back = outcome.before_release_bytes - outcome.after_release_bytes
    before, after, budget = map(
        output.size, (outcome.before_release_bytes, outcome.after_release_bytes, outcome.budget_bytes)
    )
    made = output.table("", "measured", "")
    rows: list[tuple[str, str, str]] = [
        ("documents", f"{outcome.documents:,}", f"{report.unchanged:,} of them unchanged" if report.unchanged else ""),
        ("passages embedded", f"{report.chunks:,}", f"{outcome.texts_per_second:,.0f} texts/s"),
        ("indexing", output.duration(outcome.seconds), f"{output.duration(outcome.total_seconds)} in all"),
        (
            "peak memory",
            output.size(outcome.peak_bytes),
            f"{within} the budget of {budget}, whole process tree, {outcome.samples:,} samples",
        ),
        (
            "given back",
            output.size(given_back),
            f"{before} → {after} by bank.release()",
        ),
    ]
    if outcome.conversion_seconds is not None:
        rows.insert(2, ("model converted", output.duration(outcome.conversion_seconds), "once; the next run finds it"))
    for row in rows:
        output.add_row(made, *row)
    output.show(made)
    bank = f" -b {shlex.quote(str(keep))}" if keep is not None else ""
    lines = ["Now your own:", "  embank index ~/notes", '  embank search "what did we decide about backups"']
    if keep is not None:
        lines += ["", "Or ask this one on:", f'  embank search "open a file as text"{bank}']
    output.say(*lines)

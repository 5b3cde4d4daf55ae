"""`embank demo`: the whole of it in a minute, on a corpus that every machine has, measured as it happens.

Indexes the documentation of Python's standard library within a small budget for the whole process tree, asks it real
questions, and gives the memory back. Every figure shown is measured during this very run; a run that broke its budget
or indexed too little ends in an error.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import errors, output
from embank.cli.demo_report import Answer, Outcome, show_answer, show_summary
from embank.cli.options import Invocation, configured
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.bank import Bank
    from embank.cli.demo_watch import PeakWatch
    from embank.pipeline import IngestReport

BUDGET = "192MB"
HITS_SHOWN = 3
QUESTIONS = (
    "parse a date from a string",
    "run a command and capture its output",
    "read a CSV file into dictionaries",
    "sort a list by several keys",
    "make an HTTP request",
    "find files matching a pattern recursively",
    "create a temporary directory that cleans itself up",
    "escape special characters in HTML",
)


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
        show_summary(outcome, keep)
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
                show_answer(answers[-1])
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

"""The demo's measuring and judging; the demo itself is run as a whole by `make demo`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from embank.bank import open_bank
from embank.cli.demo import QUESTIONS
from embank.cli.demo_report import LEAST_DOCUMENTS, Outcome
from embank.cli.demo_watch import DemoProgress, PeakWatch
from embank.events.kinds import ModelConversionStarted, ModelConverted, ModelLoaded, RungEntered, TextsEmbedded
from embank.memory.meter import Reading, SystemMeter
from embank.pipeline import IngestReport

MB = 1_000_000


class ScriptedMeter:
    """Readings one after the other; the last one for ever."""

    def __init__(self, *readings: tuple[int, int]) -> None:
        self._readings: Iterator[tuple[int, int]] = iter(readings)
        self._last = readings[-1]

    def read(self) -> Reading:
        tree_bytes, processes = next(self._readings, self._last)
        return Reading(tree_bytes=tree_bytes, cgroup_bytes=None, cgroup_limit_bytes=None, processes=processes)


def outcome(**changes: object) -> Outcome:
    made = Outcome(
        documents=LEAST_DOCUMENTS,
        report=IngestReport("default", chunks=8_000, seconds=20.0),
        answers=[],
        budget_bytes=192 * MB,
        peak_bytes=192 * MB,
        samples=100,
        before_release_bytes=150 * MB,
        after_release_bytes=110 * MB,
        conversion_seconds=None,
        seconds=20.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


def watched(meter: ScriptedMeter, *, samples: int) -> PeakWatch:
    with PeakWatch(meter) as watch:
        while watch.samples < samples:
            time.sleep(0.005)
    return watch


def test_a_run_within_its_budget_is_a_success() -> None:
    assert outcome().shortfall is None
    assert outcome().as_dict()["texts_per_second"] == 400.0
    assert outcome().as_dict()["released_bytes"] == 40 * MB


def test_a_run_over_its_budget_or_with_too_little_is_none() -> None:
    code, reason = outcome(peak_bytes=193 * MB).shortfall or (0, "")
    assert code == 5
    assert "193 MB broke the budget of 192 MB" in reason
    code, reason = outcome(documents=6_999).shortfall or (0, "")
    assert code == 1
    assert "only 6,999 documents" in reason


def test_the_peak_is_the_highest_sample() -> None:
    assert watched(ScriptedMeter((10, 1), (70, 1), (30, 1)), samples=4).peak_bytes == 70


def test_a_child_in_its_parents_memory_is_looked_at_again() -> None:
    between_fork_and_exec, afterwards = (200, 2), (110, 2)
    assert watched(ScriptedMeter((100, 1), between_fork_and_exec, afterwards), samples=4).peak_bytes == 110


def test_a_child_that_really_holds_memory_counts() -> None:
    assert watched(ScriptedMeter((100, 1), (200, 2), (190, 2)), samples=4).peak_bytes == 190


def test_the_watch_measures_this_process() -> None:
    with PeakWatch(SystemMeter()) as watch:
        held = b"x" * (40 * MB)
        while watch.samples < 3:
            time.sleep(0.005)
        before = SystemMeter().read().tree_bytes
    assert watch.peak_bytes >= before - 5 * MB
    assert len(held) == 40 * MB


@pytest.fixture
def progress(tmp_path: Path) -> Iterator[DemoProgress]:
    with open_bank(tmp_path / "demo.bank", memory="192MB") as bank, PeakWatch(SystemMeter()) as watch:
        yield DemoProgress("standard library", bank.memory, watch)


def drawn(progress: DemoProgress) -> str:
    console = Console(file=StringIO(), width=110)
    console.print(progress.picture())
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_picture_shows_progress_memory_and_model(progress: DemoProgress) -> None:
    progress.hear(ModelConversionStarted("minilm", "int8"))
    assert "converting minilm to int8" in drawn(progress)
    progress.hear(ModelConverted("minilm", 1.5, 26 * MB))
    progress.hear(ModelLoaded("minilm", "f", 0.2, 40 * MB))
    progress.hear(RungEntered("trim", 0.8, 170 * MB, 192 * MB))
    progress.update(IngestReport("default", seen=2_560, bytes_done=1, bytes_total=4, seconds=10.0))
    shown = drawn(progress)
    assert "2,560 documents" in shown
    assert "25%" in shown
    assert "30.0 s left" in shown
    assert "minilm ready" in shown
    assert "where each megabyte is" in shown
    assert "interpreter, libraries, work" in shown
    assert "of 192 MB" in shown
    assert "rung: trim" in shown
    assert progress.conversion_s == 1.5


def test_the_rate_is_heard_from_the_model(progress: DemoProgress) -> None:
    assert progress.rate == 0
    progress.hear(TextsEmbedded("minilm", 100, 1, 1, 100.0))
    progress.hear(TextsEmbedded("minilm", 100, 1, 1, 100.0))
    assert 1.9 < progress.rate <= 2.0


def test_a_plain_line_tells_of_the_model_when_it_changed(progress: DemoProgress) -> None:
    assert "model: not loaded" in progress.line()
    assert "model:" not in progress.line()
    progress.hear(ModelLoaded("minilm", "f", 0.2, 40 * MB))
    assert "minilm ready" in progress.line()


def test_the_questions_are_a_handful() -> None:
    assert 5 <= len(set(QUESTIONS)) == len(QUESTIONS)

"""Attribution over a process made of numbers: every branch of the experiment, and what it says of its evidence."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from tests.memory.machine import MB, Cache, Machine, StillClock

from embank.memory.creep.attribution import Attribution, Suspicion, Verdict, held
from embank.memory.creep.tracing import Tracing
from embank.memory.trim import supported

KB = 1_000
GROWN = 2 * MB


@dataclass
class Process:
    """`machine` holds everything; a trim hands `hoard` back; `kept` are real objects, which tracing sees."""

    machine: Machine = field(default_factory=lambda: Machine(held_bytes=50 * MB))
    hoard: int = 0
    malloced: int = 0
    blocks: int = 0
    consumers: list[object] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)
    clock: StillClock = field(default_factory=StillClock)
    made: list[Attribution] = field(default_factory=list)

    def trim(self) -> bool:
        self.machine.hold(-self.hoard)
        self.hoard = 0
        return True

    def attribution(self, *, traces: bool = True, most_operations: int = 5_000) -> Attribution:
        made = Attribution(
            read=lambda: self.machine.held_bytes,
            consumers=lambda: self.consumers,  # type: ignore[arg-type,return-value]  # one of them is broken
            tracing=Tracing(most_s=60, most_bytes=32 * MB, clock=self.clock) if traces else None,
            most_operations=most_operations,
            trim=self.trim,
            collect=lambda: None,
            in_use=lambda: self.malloced,
            blocks=lambda: self.blocks,
        )
        self.made.append(made)
        return made

    def keep(self) -> None:
        self.kept.append(bytes(KB))
        self.machine.hold(KB)
        self.malloced += KB
        self.blocks += 1


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    yield process
    for made in process.made:
        made.close()
    assert not tracemalloc.is_tracing()


def suspicion(*, managed: bool = False, before: dict[str, int] | None = None) -> Suspicion:
    return Suspicion(GROWN, float(KB), ("ingest",), before or {}, managed=managed)


def run(process: Process, attribution: Attribution, act: Callable[[], object], *, most: int = 5_000) -> Verdict:
    """Operations after the beginning, until the verdict."""
    for number in range(1, most):
        act()
        verdict = attribution.operation_ended(1_000 + number)
        if verdict is not None:
            assert not attribution.active
            return verdict
    pytest.fail("no verdict")


def test_lines_that_hold_more_are_named(process: Process) -> None:
    attribution = process.attribution()
    assert attribution.begin(suspicion(), operations=1_000) is None
    assert attribution.active
    verdict = run(process, attribution, process.keep)
    assert verdict.culprit == "python"
    assert verdict.locations[0].file == __file__
    assert verdict.name == str(verdict.locations[0])
    assert verdict.kinds == ("ingest",)
    assert verdict.confidence > 0.9
    assert verdict.as_dict()["locations"][0]["file"] == __file__


def test_growth_that_python_knows_nothing_of_is_native(process: Process) -> None:
    attribution = process.attribution()
    attribution.begin(suspicion(), operations=1_000)
    verdict = run(process, attribution, lambda: process.machine.hold(KB))
    assert (verdict.culprit, verdict.name) == ("native", "")
    assert verdict.confidence > 0.9
    assert "the rest is not in Python's" in verdict.evidence[-1]


def test_objects_that_are_only_replaced_are_no_leak_of_theirs(process: Process) -> None:
    """A full cache that turns over: to the tracing all that is new looks like growth."""
    process.kept = [bytes(KB) for _ in range(5_000)]
    attribution = process.attribution()
    attribution.begin(suspicion(), operations=1_000)

    def replace() -> None:
        process.kept.append(bytes(KB))
        process.kept.pop(0)
        process.machine.hold(KB // 4)  # something else grows, a little

    assert run(process, attribution, replace).culprit == "unclear"


@pytest.mark.skipif(not supported(), reason=f"no trim here: {supported().reason}")
def test_what_a_trim_gives_back_for_good_was_the_allocators(process: Process) -> None:
    process.hoard = GROWN
    attribution = process.attribution()
    attribution.begin(suspicion(), operations=1_000)

    def hoard() -> None:
        process.hoard += KB
        process.machine.hold(KB)

    verdict = run(process, attribution, hoard)
    assert (verdict.culprit, verdict.bytes) == ("hoarding", GROWN)
    assert f"gave back {GROWN} of {GROWN}" in verdict.evidence[0]


def test_a_hoard_that_was_always_there_does_not_hide_a_leak(process: Process) -> None:
    process.machine.hold(9 * MB)
    process.hoard = 9 * MB
    attribution = process.attribution()
    attribution.begin(suspicion(), operations=1_000)
    assert run(process, attribution, lambda: process.machine.hold(KB)).culprit == "native"


def test_growth_that_went_on_no_longer_is_unclear(process: Process) -> None:
    attribution = process.attribution()
    attribution.begin(suspicion(), operations=1_000)
    verdict = run(process, attribution, lambda: None)
    assert (verdict.culprit, verdict.confidence) == ("unclear", 0.0)


def test_a_consumer_whose_books_rose_is_named_at_once(process: Process) -> None:
    process.consumers = [Cache(process.machine, "steady", 5 * MB), Cache(process.machine, "growing", 3 * MB)]
    verdict = process.attribution().begin(
        suspicion(managed=True, before={"steady": 5 * MB, "growing": MB}), operations=1_000
    )
    assert verdict is not None
    assert (verdict.culprit, verdict.name, verdict.bytes) == ("consumer", "growing", 2 * MB)


def test_a_consumer_that_gives_back_more_than_its_books_say_is_named(process: Process) -> None:
    class Hidden(Cache):
        def used_bytes(self) -> int:
            return 0

    honest, hidden = Cache(process.machine, "honest", 9 * MB), Hidden(process.machine, "hidden", 3 * MB)
    process.consumers = [honest, hidden]
    verdict = process.attribution().begin(suspicion(), operations=1_000)
    assert verdict is not None
    assert (verdict.culprit, verdict.name, verdict.bytes) == ("consumer", "hidden", GROWN)
    assert honest.asked == hidden.asked == [GROWN]


def test_consumers_that_raise_are_passed_over(process: Process) -> None:
    class Broken:
        @property
        def name(self) -> str:
            raise RuntimeError("no name")

        def used_bytes(self) -> int:
            raise RuntimeError("no bytes")

        def release(self, wanted_bytes: int) -> int:
            raise RuntimeError("no release")

        def rebuild_cost(self) -> float:
            return 0.0

    process.consumers = [Broken()]
    attribution = process.attribution()
    assert attribution.begin(suspicion(), operations=1_000) is None
    assert run(process, attribution, lambda: process.machine.hold(KB)).culprit == "native"
    assert held([Broken()]) == {"Broken": 0}


def test_what_consumers_take_meanwhile_is_not_the_leaks(process: Process) -> None:
    cache = Cache(process.machine, "cache", MB)
    process.consumers = [cache]
    attribution = process.attribution()
    attribution.begin(suspicion(), operations=1_000)

    def fill() -> None:
        cache.bytes += KB
        process.machine.hold(KB)

    assert run(process, attribution, fill).culprit == "unclear"


@pytest.mark.parametrize("traces", [False, True])
def test_without_a_comparison_a_leak_is_not_guessed_at(process: Process, *, traces: bool) -> None:
    attribution = process.attribution(traces=traces)
    if traces:
        tracemalloc.start()
    try:
        attribution.begin(suspicion(), operations=1_000)
        verdict = run(process, attribution, lambda: process.machine.hold(KB))
    finally:
        tracemalloc.stop()
    assert verdict.culprit == "unclear"
    assert any("not traced" in line for line in verdict.evidence)


def test_a_tracing_whose_time_is_up_is_said(process: Process) -> None:
    attribution = process.attribution()
    attribution.begin(suspicion(), operations=1_000)

    def slow() -> None:
        process.machine.hold(KB)
        process.clock.sleep(1.0)

    verdict = run(process, attribution, slow)
    assert verdict.culprit == "unclear"
    assert "no comparison of Python's allocations: time" in verdict.evidence


def test_it_takes_no_longer_than_it_may(process: Process) -> None:
    attribution = process.attribution(most_operations=300)
    attribution.begin(Suspicion(GROWN, 1.0, ("ingest",), {}), operations=1_000)
    assert attribution.operation_ended(1_299) is None
    assert attribution.operation_ended(1_300) is not None
    assert attribution.operation_ended(1_301) is None

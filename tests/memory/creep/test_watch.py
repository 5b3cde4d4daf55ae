"""Creep over a process made of numbers: what is alarmed about, what is not, and whom it is laid to."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from tests.memory.machine import MB, Cache, Machine, StillClock

import embank
from embank.errors import InvalidInput
from embank.events.kinds import CreepSuspected, Event, LeakAttributed, MemoryJumped
from embank.memory.creep.settings import Settings
from embank.memory.creep.trend import NotEnough, Trend
from embank.memory.creep.watch import OTHER, Creep, of_process
from embank.memory.recovery import own_bytes

KB = 1_000
RUNS = 20


@dataclass
class Process:
    """Memory as numbers: `held` is in use, `hoard` is the allocator's, and a watch over it that only watches."""

    held: int = 50 * MB
    hoard: int = 0
    managed: int = 0
    unreadable: bool = False
    heard: list[Event] = field(default_factory=list)
    recoveries: list[int] = field(default_factory=list)
    clock: StillClock = field(default_factory=StillClock)
    recover: Callable[[], object] | None = None

    def watch(self, **settings: object) -> Creep:
        return Creep(
            Settings.model_validate({"attribute": False, **settings}),
            managed_bytes=lambda: self.managed,
            recover=self.recover or (lambda: self.recoveries.append(self.held)),
            publish=self.heard.append,
            limit_bytes=lambda: 100 * MB,
            clock=self.clock,
            read=lambda: None if self.unreadable else self.held + self.hoard,
            free=lambda: self.hoard,
        )

    def said(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.heard if isinstance(event, kind)]


def work(
    creep: Creep,
    operations: int,
    act: Callable[[int], object],
    *,
    kind: str = "ingest",
    clock: StillClock | None = None,
) -> None:
    for number in range(operations):
        with creep.track(kind):
            act(number)
        if clock is not None:
            clock.sleep(0.1)


# -- what healthy processes do ---------------------------------------------------------------------------------------


def sawtooth(process: Process, r: random.Random) -> Callable[[int], None]:
    period, height = r.choice((20, 90, 300)), r.choice((1, 2, 4)) * MB

    def act(number: int) -> None:
        process.held = 50 * MB + number % period * height // period + r.randrange(100 * KB)

    return act


def bounded_walk(process: Process, r: random.Random) -> Callable[[int], None]:
    at, most, step = 0.0, r.choice((1, 3)) * MB, r.choice((10, 30)) * KB

    def act(_: int) -> None:
        nonlocal at
        at = min(max(at + r.gauss(0, step), 0.0), most)
        process.held = 50 * MB + int(at)

    return act


def plateau(process: Process, r: random.Random) -> Callable[[int], None]:
    def act(_: int) -> None:
        process.hoard = max(process.hoard, r.randrange(100 * KB, 2 * MB))
        process.held = 50 * MB + r.randrange(200 * KB)

    return act


def late_steps(process: Process, r: random.Random) -> Callable[[int], None]:
    at = {r.randrange(3_000): r.choice((200 * KB, 500 * KB, MB)) for _ in range(3)}

    def act(number: int) -> None:
        process.held += at.pop(number, 0)

    return act


def spikes(process: Process, r: random.Random) -> Callable[[int], None]:
    def act(_: int) -> None:
        process.held = 50 * MB + (r.randrange(4 * MB) if r.random() < 0.3 else 0)

    return act


HEALTHY = [sawtooth, bounded_walk, plateau, late_steps, spikes]


@pytest.mark.parametrize("make", HEALTHY)
def test_healthy_runs_raise_no_alarm(make: Callable[[Process, random.Random], Callable[[int], None]]) -> None:
    for seed in range(RUNS):
        process = Process()
        creep = process.watch()
        work(creep, 3_000, make(process, random.Random(seed)))
        assert process.heard == [], f"seed {seed}"
        creep.close()


@pytest.mark.parametrize("make", [sawtooth, spikes])
def test_a_leak_under_the_same_noise_is_found(
    make: Callable[[Process, random.Random], Callable[[int], None]],
) -> None:
    found = 0
    for seed in range(RUNS):
        process = Process()
        creep = process.watch()
        act = make(process, random.Random(seed))

        def leaking(number: int, process: Process = process, act: Callable[[int], None] = act) -> None:
            act(number)
            process.held += 2 * KB * number

        work(creep, 3_000, leaking)
        found += bool(process.said(CreepSuspected))
    assert found >= 0.8 * RUNS


def test_a_leak_of_a_tenth_of_a_megabyte_in_a_hundred_operations_is_found_within_three_thousand() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 3_000, lambda _: leak(process, KB))
    first = process.said(CreepSuspected)[0]
    assert isinstance(first, CreepSuspected)
    assert (first.reason, first.kinds) == ("trend", ("ingest",))
    assert first.bytes_per_1000 == pytest.approx(MB, rel=0.05)
    report = creep.report()
    assert isinstance(report.trend, Trend)
    assert report.trend.rising
    assert report.keeps_contract
    (kind,) = report.kinds
    assert kind.bytes_per_100 == pytest.approx(100 * KB, rel=0.05)
    assert kind.bytes_per_1000 == pytest.approx(MB, rel=0.05)


def leak(process: Process, count: int) -> None:
    process.held += count


def test_a_leak_that_first_takes_up_what_the_allocator_had_free_is_found() -> None:
    """The process does not grow at all meanwhile."""
    process = Process(hoard=10 * MB)
    creep = process.watch()

    def act(_: int) -> None:
        process.held += KB
        process.hoard -= KB

    work(creep, 3_000, act)
    assert process.said(CreepSuspected)


def test_slow_creep_is_found_over_many_operations_and_told_seldom() -> None:
    process = Process()
    creep = process.watch(every_operations=20)
    work(creep, 60_000, lambda _: leak(process, 100))
    told = process.said(CreepSuspected)
    assert 1 <= len(told) <= 3
    assert all(isinstance(each, CreepSuspected) and each.bytes_per_1000 < 150 * KB for each in told)


def test_more_than_five_megabytes_in_a_thousand_operations_break_the_contract() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 110, lambda _: None)
    for _ in range(12):  # in steps, which are no trend
        work(creep, 90, lambda _: None)
        process.held += 600 * KB
    work(creep, 30, lambda _: None)
    told = process.said(CreepSuspected)
    assert "contract" in [each.reason for each in told if isinstance(each, CreepSuspected)]
    report = creep.report()
    assert report.keeps_contract is False
    assert report.most_per_1000 > 5 * MB


def test_more_than_a_megabyte_in_each_of_two_hundreds_breaks_the_contract_and_a_single_burst_does_not() -> None:
    once, twice = Process(), Process()
    for process, bursts in ((once, 1), (twice, 2)):
        creep = process.watch()
        work(creep, 300, lambda _: None)
        for _ in range(bursts):
            work(creep, 100, lambda _, process=process: leak(process, 15 * KB))  # type: ignore[misc]
        work(creep, 100, lambda _: None)
        assert creep.report().most_per_100 > MB
    assert not once.heard
    assert [type(each) for each in twice.heard] == [CreepSuspected]


def test_a_rise_back_to_what_a_recovery_gave_back_breaks_no_contract_and_growth_beyond_it_does() -> None:
    process = Process(held=60 * MB)
    creep = process.watch()
    work(creep, 400, lambda _: None)

    def given_back_and_taken_up_again(number: int) -> None:
        process.held = (60 - 10 * (number % 400 < 20) - 5 * (number % 400 < 150)) * MB

    work(creep, 2_000, given_back_and_taken_up_again)
    assert not process.said(CreepSuspected)
    assert creep.report().most_per_1000 == creep.report().most_per_100 == 0
    process.held = 54 * MB
    work(creep, 500, lambda _: leak(process, 30 * KB))
    assert creep.report().most_per_1000 == pytest.approx(9 * MB, abs=MB)
    assert {each.reason for each in process.said(CreepSuspected) if isinstance(each, CreepSuspected)} == {"contract"}


# -- warm-up and baseline --------------------------------------------------------------------------------------------


def test_what_the_first_operations_of_a_kind_take_is_not_counted_whenever_it_begins() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 1_000, lambda number: leak(process, 20 * MB if number == 3 else 0))
    work(creep, 1_000, lambda number: leak(process, MB if number < 60 else 0), kind="search")
    assert not process.heard
    assert creep.report().growth_bytes == 0


def test_a_rare_kind_does_not_warm_up_for_ever() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 200, lambda _: None)
    for _ in range(15):  # each begins high and ends low, and what it gave back is taken up again by others
        work(creep, 1, lambda _: leak(process, -3 * MB), kind="compact")
        work(creep, 999, lambda number: leak(process, 3 * MB if number == 50 else 0))
    assert creep.report().growth_bytes == 0
    for _ in range(40):
        work(creep, 1, lambda _: leak(process, 2 * MB), kind="compact")
        work(creep, 999, lambda _: None)
    assert creep.report().growth_bytes == 80 * MB
    assert process.said(CreepSuspected)


def test_what_a_warm_up_gives_back_is_not_held_against_those_who_take_it_up_again() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 300, lambda _: None)
    for _ in range(10):
        work(creep, 5, lambda number: leak(process, -4 * MB if number == 2 else 0), kind="compact")
        work(creep, 50, lambda number: leak(process, 80 * KB))
    work(creep, 300, lambda _: None)
    assert not process.said(CreepSuspected)
    assert creep.report().growth_bytes == 0


def test_a_recovery_does_not_move_the_baseline() -> None:
    process = Process()
    process.recover = lambda: leak(process, -3 * MB)
    creep = process.watch()
    work(creep, 300, lambda _: None)
    before = creep.report()
    work(creep, 20, lambda number: leak(process, 7 * MB if number == 5 else 0))
    after = creep.report()
    assert after.jumps == 1
    assert after.baseline_bytes == before.baseline_bytes == 50 * MB
    work(creep, 20, lambda _: None)
    assert creep.report().growth_bytes == 4 * MB
    assert creep.report().peak_bytes == 57 * MB


# -- jumps -----------------------------------------------------------------------------------------------------------


def test_a_rise_of_more_than_five_megabytes_within_ten_operations_recovers_at_once() -> None:
    process = Process()
    process.recover = lambda: leak(process, -2 * MB)
    creep = process.watch()
    work(creep, 300, lambda _: None)
    work(creep, 10, lambda _: leak(process, 600 * KB))
    (told,) = process.heard
    assert isinstance(told, MemoryJumped)
    assert told.operation == "ingest"
    assert told.rise_bytes > 5 * MB
    assert (told.freed_bytes, told.error) == (2 * MB, "")


def test_what_a_jump_is_can_be_set() -> None:
    process = Process()
    creep = process.watch(jump="1MB", jump_operations=20)
    work(creep, 300, lambda _: None)
    work(creep, 20, lambda _: leak(process, 70 * KB))
    assert len(process.said(MemoryJumped)) == 1


def test_a_slower_rise_is_no_jump_and_neither_is_a_consumer_that_fills() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 300, lambda _: None)
    work(creep, 40, lambda _: leak(process, 400 * KB))

    def fill(_: int) -> None:
        process.held += MB
        process.managed += MB

    work(creep, 40, fill)
    assert not process.said(MemoryJumped)


def test_what_was_given_back_and_rises_again_is_no_jump() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 300, lambda _: None)

    def trimmed_and_touched_again(number: int) -> None:
        process.held = (50 if number % 20 < 10 else 30) * MB

    work(creep, 400, trimmed_and_touched_again)
    assert not process.said(MemoryJumped)
    process.held = 50 * MB
    work(creep, 10, lambda _: leak(process, 600 * KB))
    assert len(process.said(MemoryJumped)) == 1


def test_where_memory_stood_long_ago_hides_no_jump() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 300, lambda _: None)
    process.held = 80 * MB
    work(creep, 20, lambda _: None)
    assert len(process.said(MemoryJumped)) == 1
    process.held = 50 * MB
    work(creep, 1_100, lambda _: None)
    process.held = 60 * MB
    work(creep, 20, lambda _: None)
    assert len(process.said(MemoryJumped)) == 2


def test_a_cache_whose_bytes_the_allocator_keeps_is_neither_jump_nor_creep() -> None:
    process = Process(held=80 * MB, managed=30 * MB)
    creep = process.watch()
    work(creep, 300, lambda _: None)
    process.managed, process.held, process.hoard = 0, 50 * MB, 30 * MB
    work(creep, 2_000, lambda _: None)
    assert not process.heard


def test_a_recovery_that_raises_is_told_and_the_operation_does_not_feel_it() -> None:
    process = Process()

    def fail() -> None:
        raise OSError("no")

    process.recover = fail
    creep = process.watch()
    work(creep, 300, lambda _: None)
    work(creep, 10, lambda _: leak(process, MB))
    (told,) = process.said(MemoryJumped)
    assert isinstance(told, MemoryJumped)
    assert told.error == "OSError: no"


def test_a_recovery_may_hold_operations_and_a_subscriber_may_ask_for_the_report() -> None:
    process = Process()
    creep = process.watch()
    process.recover = lambda: work(creep, 30, lambda _: leak(process, 0), kind="release")
    creep = process.watch()
    work(creep, 300, lambda _: None)
    work(creep, 10, lambda _: leak(process, MB))
    assert creep.report().jumps >= 1
    assert dict.fromkeys(each.kind for each in creep.report().kinds) == {"ingest": None, "release": None}


# -- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_growth_is_laid_to_the_kind_it_goes_with(seed: int) -> None:
    r = random.Random(seed)
    process = Process()
    creep = process.watch()
    for _ in range(2_000):
        kind = r.choice(("ingest", "search", "search", "embed"))
        with creep.track(kind):
            leak(process, 3 * KB if kind == "search" else 0)
    told = process.said(CreepSuspected)[0]
    assert isinstance(told, CreepSuspected)
    assert told.kinds == ("search",)
    rates = {each.kind: each.bytes_per_1000 for each in creep.report().kinds}
    assert rates["search"] == pytest.approx(3 * MB, rel=0.05)
    assert abs(rates["ingest"] or 0) < 300 * KB
    assert abs(rates["embed"] or 0) < 300 * KB


def test_kinds_that_always_go_together_are_named_together() -> None:
    process = Process()
    creep = process.watch()
    for _ in range(2_000):
        with creep.track("ingest"), creep.track("embed"):
            leak(process, 2 * KB)
    told = process.said(CreepSuspected)[0]
    assert isinstance(told, CreepSuspected)
    assert set(told.kinds) == {"ingest", "embed"}
    assert {each.kind: each.together for each in creep.report().kinds} == {"ingest": ("embed",), "embed": ("ingest",)}


def test_kinds_are_bounded_and_the_rest_is_counted_as_other() -> None:
    process = Process()
    creep = process.watch(most_kinds=2, warmup_operations=0)
    for number in range(10):
        work(creep, 2, lambda _: None, kind=f"kind-{number}")
    report = creep.report()
    assert [(each.kind, each.operations) for each in report.kinds] == [("kind-0", 2), ("kind-1", 2), (OTHER, 16)]
    assert report.untold_calls == 16


def test_what_is_kept_is_bounded() -> None:
    process = Process()
    creep = process.watch(every_operations=1, most_points=64)
    work(creep, 20_000, lambda _: None)
    windows = list(creep._history.windows(1))
    assert max(map(len, windows)) <= 64
    assert windows[0][0].operations < 1_000  # the beginning is still known
    assert windows[-1][-1].operations == pytest.approx(20_000, abs=4)


# -- ways to track ---------------------------------------------------------------------------------------------------


def test_as_a_decorator_of_functions_and_async_functions() -> None:
    process = Process()
    creep = process.watch()

    @creep.track("ingest")
    def plain(value: int) -> int:
        """Doubles."""
        return 2 * value

    @creep.track("search")
    async def later(value: int) -> int:
        await asyncio.sleep(0)
        if value < 0:
            raise ValueError(value)
        return value

    async def both() -> tuple[int, int]:
        return await asyncio.gather(later(1), later(2))

    assert plain(2) == 4
    assert (plain.__name__, plain.__doc__) == ("plain", "Doubles.")
    assert tuple(asyncio.run(both())) == (1, 2)
    with pytest.raises(ValueError, match="-1"):
        asyncio.run(later(-1))
    assert {each.kind: each.operations for each in creep.report().kinds} == {"ingest": 1, "search": 3}


def test_generators_are_refused() -> None:
    creep = Process().watch()

    def generate() -> Iterator[int]:
        yield 1

    with pytest.raises(InvalidInput, match="generator"):
        creep.track("ingest")(generate)


def test_an_operation_that_raises_counts_and_raises() -> None:
    creep = Process().watch()
    with pytest.raises(KeyError), creep.track("ingest"):
        raise KeyError("x")
    assert creep.report().operations == 1


def test_threads_count_every_operation() -> None:
    process = Process()
    creep = process.watch()

    def many() -> None:
        for _ in range(2_000):
            with creep.track("search"):
                pass

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = creep.report()
    assert report.operations == 16_000
    assert not process.heard


def test_of_the_process_for_those_without_a_bank() -> None:
    before = of_process().report().operations
    with embank.track("test"):
        pass
    assert of_process().report().operations == before + 1


# -- where things are missing or odd ---------------------------------------------------------------------------------


def test_where_memory_cannot_be_read_nothing_is_judged_and_the_report_says_so() -> None:
    process = Process(unreadable=True)
    creep = process.watch()
    work(creep, 1_000, lambda _: leak(process, MB))
    report = creep.report()
    assert not process.heard
    assert (report.own_bytes, report.growth_bytes, report.operations) == (None, None, 1_000)
    assert isinstance(report.trend, NotEnough)
    assert report.unavailable


def test_disabled_it_neither_counts_nor_reads() -> None:
    process = Process()
    creep = process.watch(enabled=False)
    work(creep, 1_000, lambda _: leak(process, MB))
    assert creep.report().operations == 0
    assert creep.report().unavailable == ""


def test_closed_it_no_longer_counts() -> None:
    creep = Process().watch()
    work(creep, 5, lambda _: None)
    creep.close()
    creep.close()
    work(creep, 5, lambda _: None)
    assert creep.report().operations == 5


def test_a_clock_that_goes_backwards_does_no_harm_and_time_to_the_limit_is_told() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 500, lambda _: leak(process, KB), clock=process.clock)
    process.clock.time_s -= 20
    work(creep, 1_500, lambda _: leak(process, KB), clock=process.clock)
    seconds = creep.report().seconds_to_limit
    assert seconds is not None
    # 48 MB are left, at 10 kB a second.
    assert seconds == pytest.approx(4_800, rel=0.1)


def test_an_allocator_that_cannot_be_asked_leaves_the_rest_working() -> None:
    process = Process()
    creep = Creep(
        Settings(attribute=False),
        managed_bytes=lambda: 0,
        publish=process.heard.append,
        read=lambda: process.held,
        free=lambda: None,
    )
    work(creep, 3_000, lambda _: leak(process, KB))
    assert process.said(CreepSuspected)


def test_a_reading_that_raises_does_not_reach_the_operation() -> None:
    def read() -> int:
        raise OSError("gone")

    creep = Creep(Settings(attribute=False), read=read)
    work(creep, 300, lambda _: None)
    assert creep.report().operations == 300


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_starts_anew_even_from_within_a_reading() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 300, lambda _: None)
    read, write = os.pipe()
    with creep._lock, creep._looking:
        child = os.fork()
        if child == 0:
            try:
                work(creep, 7, lambda _: None)
                os.write(write, json.dumps(creep.report().as_dict()).encode())
            finally:
                os._exit(0)
    os.close(write)
    told = json.loads(os.read(read, 1 << 16))
    os.close(read)
    os.waitpid(child, 0)
    assert (told["operations"], told["baseline_bytes"]) == (7, None)
    assert creep.report().operations == 300


def test_the_report_is_plain_data() -> None:
    process = Process()
    creep = process.watch()
    work(creep, 2_000, lambda _: leak(process, KB))
    told = json.loads(json.dumps(creep.report().as_dict()))
    assert told["trend"]["verdict"] == "rising"
    assert told["contract"] == {"per_100": MB, "per_1000": 5 * MB}


@pytest.mark.skipif(own_bytes() is None, reason="there is no /proc here")
def test_a_consumer_that_grows_without_a_limit_is_named_and_one_below_its_limit_is_not() -> None:
    for limit_bytes, culprits in ((None, ["hoard"]), (100 * MB, [])):
        machine, heard = Machine(held_bytes=50 * MB), list[Event]()
        hoard = Cache(machine, "hoard")
        if limit_bytes is not None:
            hoard.limit_bytes = limit_bytes  # type: ignore[attr-defined]
        creep = Creep(
            consumers=lambda hoard=hoard: (hoard,),  # type: ignore[misc]
            publish=heard.append,
            read=lambda machine=machine: machine.held_bytes,  # type: ignore[misc]
            free=lambda: 0,
        )

        def fill(_: int, machine: Machine = machine, hoard: Cache = hoard) -> None:
            machine.hold(2 * KB)
            hoard.bytes += 2 * KB

        work(creep, 3_000, fill)
        assert [each.name for each in heard if isinstance(each, LeakAttributed)][:1] == culprits
        creep.close()

"""The monitor: when it looks, what it tells, and what that costs."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.conftest import Govern
from tests.memory.machine import MB, Cache, Machine, StillClock
from tests.waiting import until

from embank.events.kinds import Event, MemorySampled
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.monitor import Monitor
from embank.memory.pace import Pace
from embank.memory.settings import Settings

# --- pace -----------------------------------------------------------------------------------------------------------


def pace(*, adaptive: bool = True) -> Pace:
    return Pace(1.0, fastest_s=0.1, slowest_s=5.0, adaptive=adaptive)


def test_far_from_a_mark_and_at_rest_it_slows_down_to_its_slowest() -> None:
    calm = pace()
    waits = [calm.next_s(0.2, mark=0.7) for _ in range(8)]
    assert waits[0] == 1.0
    assert waits == sorted(waits)
    assert waits[-1] == 5.0


def test_close_to_a_mark_it_hurries() -> None:
    steady = pace()
    assert [steady.next_s(pressure, mark=0.7) for pressure in (0.65, 0.65)] == pytest.approx([0.55, 0.55])
    assert steady.next_s(0.7, mark=0.7) == 0.1


def test_pressure_that_rises_is_met_half_way() -> None:
    rising = pace()
    rising.next_s(0.2, mark=0.7)
    wait_s = rising.next_s(0.5, mark=0.7)  # 0.3 in a second: the 0.2 that are left will take 0.67 s
    assert wait_s == pytest.approx(0.1 / 0.3)


def test_on_a_rung_that_stays_it_does_not_hurry() -> None:
    assert pace().next_s(0.96, mark=None) == 1.0


def test_a_fixed_pace_is_fixed() -> None:
    fixed = pace(adaptive=False)
    assert {fixed.next_s(pressure, mark=0.7) for pressure in (0.1, 0.1, 0.69, 0.9)} == {1.0}


@given(st.lists(st.tuples(st.floats(0, 3), st.none() | st.floats(0, 1)), max_size=40))
def test_whatever_is_seen_the_pace_keeps_to_its_bounds(seen: list[tuple[float, float | None]]) -> None:
    kept = pace()
    for pressure, mark in seen:
        assert 0.1 <= kept.next_s(pressure, mark=mark) <= 5.0


# --- the thread -----------------------------------------------------------------------------------------------------


class Ledger:
    """Collects what is published; the cost of a look is what the test says."""

    def __init__(self) -> None:
        self.samples: list[MemorySampled] = []
        self.cpu = 0.0

    def publish(self, event: Event) -> None:
        assert isinstance(event, MemorySampled)
        self.samples.append(event)

    def cpu_s(self) -> float:
        self.cpu += 0.001
        return self.cpu


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def monitor(govern: Govern, machine: Machine, clock: StillClock, ledger: Ledger) -> Iterator[Monitor]:
    governor = govern()
    governor.register(Cache(machine, "cache", 20 * MB))
    machine.hold(10 * MB)
    made = Monitor(governor, settings=Settings(), publish=ledger.publish, clock=clock, cpu_s=ledger.cpu_s)
    made.start()
    yield made
    made.close()


def test_a_sample_tells_both_ledgers(monitor: Monitor, ledger: Ledger) -> None:
    until(lambda: len(ledger.samples) == 1)
    sample = ledger.samples[0]
    assert (sample.real_bytes, sample.managed_bytes, sample.consumers) == (30 * MB, 20 * MB, (("cache", 20 * MB),))
    assert sample.pressure == pytest.approx(0.3)
    assert (sample.rung, sample.unmanaged_growth_bytes) == (None, None)
    assert sample.cost_s > 0
    assert sample.at > 1_700_000_000


def test_it_looks_when_its_time_has_come(monitor: Monitor, ledger: Ledger, clock: StillClock) -> None:
    until(lambda: monitor.state().samples == 1)
    clock.sleep(1)
    monitor.look()
    until(lambda: monitor.state().samples == 2)
    state = monitor.state()
    assert state.running
    assert state.cpu_s == pytest.approx(0.004), "both clock readings of each look"
    assert state.cpu_pct == pytest.approx(0.4)


def test_it_moves_the_ladder_without_anybody_asking(
    monitor: Monitor, machine: Machine, ledger: Ledger, clock: StillClock
) -> None:
    until(lambda: len(ledger.samples) == 1)
    machine.hold(50 * MB)
    clock.sleep(1)
    monitor.look()
    until(lambda: len(ledger.samples) == 2)
    assert machine.held_bytes == 60 * MB, "all that the cache had"
    assert ledger.samples[1].rung == "release"
    assert ledger.samples[1].real_bytes == 60 * MB


def test_a_clock_that_is_set_back_does_not_stop_it(monitor: Monitor, clock: StillClock) -> None:
    until(lambda: monitor.state().samples == 1)
    clock.sleep(-3600)
    monitor.look()
    until(lambda: monitor.state().samples == 2)
    clock.sleep(1)
    monitor.look()
    until(lambda: monitor.state().samples == 3)
    assert (monitor.state().cpu_pct or 0) > 0


def test_the_snapshot_tells_of_it_until_it_is_closed(govern: Govern, machine: Machine) -> None:
    governor = govern()
    monitor = Monitor(governor)
    assert governor.snapshot().monitor is None
    monitor.start()
    until(lambda: monitor.state().samples >= 1)
    told = governor.snapshot().monitor
    assert told is not None
    assert told.running
    monitor.close()
    monitor.close()
    assert governor.snapshot().monitor is None
    assert not monitor.state().running


def test_a_governor_that_fails_does_not_end_it_for_good(machine: Machine, clock: StillClock) -> None:
    class Failing(Machine):
        failing = False

        def read(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            if self.failing:
                raise OSError("no more open files")
            return super().read()

    meter = Failing()
    governor = Governor(100 * MB, meter=meter, clock=clock)
    monitor = Monitor(governor, clock=clock)
    monitor.start()
    until(lambda: monitor.state().samples == 1)
    meter.failing = True
    monitor.look()
    time.sleep(0)
    meter.failing = False
    monitor.look()
    until(lambda: monitor.state().samples >= 2)
    monitor.close()


def test_a_monitor_that_is_forgotten_ends_its_thread(govern: Govern) -> None:
    def begin() -> threading.Thread:
        before = set(threading.enumerate())
        monitor = Monitor(govern())
        monitor.start()
        until(lambda: monitor.state().samples >= 1)
        (thread,) = [each for each in set(threading.enumerate()) - before if each.name == "embank-monitor"]
        return thread

    thread = begin()
    until(lambda: gc.collect() >= 0 and not thread.is_alive())


def test_real_samples_tell_the_tree_by_process() -> None:
    with Stream() as stream, stream.subscribe(kinds=[MemorySampled]) as events:
        monitor = Monitor(Governor(10_000 * MB), publish=stream.publish)
        monitor.start()
        sample = events.drain(wait_s=30)[0]
        monitor.close()
    assert isinstance(sample, MemorySampled)
    assert sample.processes[0][0] == os.getpid()
    assert sum(held for _, held in sample.processes) == sample.tree_bytes > 0


def test_after_a_fork_the_child_samples_itself_and_the_parent_goes_on() -> None:
    with Stream() as stream:
        governor = Governor(10_000 * MB, stream=stream)
        monitor = Monitor(governor, settings=Settings(sample_s=0.1), publish=stream.publish)
        monitor.start()
        until(lambda: monitor.state().samples >= 1)
        held = governor.reserve("of the forking thread", MB)
        child = os.fork()
        if not child:
            status = 1
            try:
                deadline_s = time.monotonic() + 20
                while monitor.state().samples < 1 and time.monotonic() < deadline_s:
                    time.sleep(0.01)
                state = governor.snapshot()
                with governor.reserve("in the child", MB):
                    governor.check()
                own = state.process_bytes[0][0] == os.getpid()
                status = 0 if own and monitor.state().samples >= 1 and state.reserved_bytes == MB else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        count = monitor.state().samples
        monitor.look()
        until(lambda: monitor.state().samples > count)
        held.release()
        monitor.close()


def test_a_fork_while_others_hold_every_lock_leaves_the_child_able_to_work() -> None:
    """The child forks off while threads are inside of reservations and checks, again and again."""
    governor = Governor(10_000 * MB, settings=Settings(check_interval_s=0))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with governor.reserve("work", MB):
                governor.check()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if not child:
                with governor.reserve("in the child", MB):
                    governor.check(at_once=True)
                os._exit(0 if governor.snapshot().reserved_bytes == 0 else 1)
            deadline_s = time.monotonic() + 20
            done = (0, 0)
            while not done[0]:
                assert time.monotonic() < deadline_s, "the child hangs"
                done = os.waitpid(child, os.WNOHANG)
                time.sleep(0.001)
            assert os.waitstatus_to_exitcode(done[1]) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)

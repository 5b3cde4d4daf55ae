"""Recovery over a machine made of numbers; the thread is real, and is woken by calls, never by the passing of time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.memory.machine import MB, Machine, StillClock

from embank.events.kinds import Event, MemoryRecovered
from embank.memory.recovery import Recovery, own_bytes
from embank.memory.recovery_settings import Settings
from embank.memory.trim import Free, Trimmer, supported

LONG_S = 10.0


@dataclass
class Process:
    """A machine whose allocator hoards `hoard` bytes, which a trim hands back; consumers hold `managed`."""

    clock: StillClock
    machine: Machine = field(default_factory=lambda: Machine(held_bytes=100 * MB))
    hoard: int = 0
    managed: int = 0
    collected: list[int] = field(default_factory=list)
    said: queue.Queue[Event] = field(default_factory=queue.Queue)
    made: list[Recovery] = field(default_factory=list)
    cleaning: threading.Event = field(default_factory=threading.Event)

    def recovery(self, **settings: object) -> Recovery:
        trimmer = Trimmer(
            interval_s=0,
            least_bytes=4 * MB,
            clock=self.clock,
            trim=self.trim,
            free=lambda: Free(self.hoard, self.hoard),
        )
        made = Recovery(
            Settings.model_validate({"least_interval_s": 0, "check_interval_s": 0, "idle_s": None, **settings}),
            managed_bytes=lambda: self.managed,
            publish=self.said.put,
            clock=self.clock,
            meter=self.machine,
            read=lambda: self.machine.held_bytes,
            trimmer=trimmer,
            collect=self.collect,
        )
        made.settle()
        self.made.append(made)
        return made

    def collect(self, generation: int) -> None:
        self.collected.append(generation)
        self.cleaning.set()

    def leave(self, count: int) -> None:
        """A call leaves bytes behind."""
        self.hoard += count
        self.machine.hold(count)

    def trim(self) -> bool:
        given, self.hoard = self.hoard, 0
        self.machine.hold(-given)
        return given > 0

    def next(self) -> MemoryRecovered:
        event = self.said.get(timeout=LONG_S)
        assert isinstance(event, MemoryRecovered)
        return event


@pytest.fixture
def process(clock: StillClock) -> Iterator[Process]:
    process = Process(clock)
    yield process
    for recovery in process.made:
        recovery.close()
    assert process.said.empty(), "every clean-up was looked for"


def calls(recovery: Recovery, count: int) -> None:
    for _ in range(count):
        with recovery.call():
            pass


def recovery_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "embank-recovery"]


# --- when -----------------------------------------------------------------------------------------------------------


def test_it_cleans_up_after_so_many_calls(process: Process) -> None:
    recovery = process.recovery()
    process.leave(20 * MB)
    calls(recovery, 9)
    assert not recovery_threads(), "nothing was due, so nothing was started"
    calls(recovery, 1)
    made = process.next()
    assert (made.trigger, made.before_bytes, made.after_bytes, made.ok) == ("calls", 120 * MB, 100 * MB, True)
    state = recovery.state()
    assert (state.recoveries, state.recoveries_failed, state.freed_bytes) == (1, 0, 20 * MB)
    assert state.last == made


def test_growth_is_seen_before_the_next_call(process: Process) -> None:
    recovery = process.recovery(growth="50MB")
    process.leave(50 * MB)
    calls(recovery, 1)
    assert not recovery_threads(), "not above the threshold yet"
    process.leave(1 * MB)
    calls(recovery, 1)
    made = process.next()
    assert (made.trigger, made.before_bytes - made.after_bytes) == ("growth", 51 * MB)


def test_what_consumers_say_they_hold_is_no_growth(process: Process) -> None:
    recovery = process.recovery()
    process.managed = 200 * MB
    process.machine.hold(200 * MB)
    calls(recovery, 5)
    assert recovery.state().growth_bytes == 0
    assert not recovery_threads()


def test_memory_is_read_at_most_once_in_an_interval(process: Process, clock: StillClock) -> None:
    recovery = process.recovery(check_interval_s=0.02)
    calls(recovery, 1)
    process.leave(60 * MB)
    calls(recovery, 5)
    assert not recovery_threads()
    clock.sleep(0.03)
    calls(recovery, 1)
    assert process.next().trigger == "growth"


def test_clean_ups_keep_their_distance(process: Process, clock: StillClock) -> None:
    recovery = process.recovery(least_interval_s=1.0, adaptive=False)
    calls(recovery, 10)
    process.next()
    process.leave(90 * MB)
    calls(recovery, 100)
    assert recovery.state().recoveries == 1
    clock.sleep(1.0)
    calls(recovery, 1)
    assert process.next().trigger == "growth"


def test_it_cleans_up_when_calls_have_ceased(process: Process, clock: StillClock) -> None:
    recovery = process.recovery(idle_s=5.0)
    recovery._block_s = 0.0  # however much this process holds, it is collected in no time
    process.leave(30 * MB)
    calls(recovery, 1)
    assert process.said.empty()
    clock.sleep(5.0)
    recovery._thread.wake()
    made = process.next()
    assert (made.trigger, made.after_bytes) == ("idle", 100 * MB)
    assert process.collected == [2], "nobody waits: the whole is collected"
    clock.sleep(50.0)
    recovery._thread.wake()
    recovery.close()
    assert process.said.empty(), "once, until there are calls again"


def test_it_waits_for_a_moment_without_calls_though_not_for_ever(process: Process, clock: StillClock) -> None:
    recovery = process.recovery(every_calls=1, patience_s=0.5)
    process.leave(30 * MB)
    with recovery.call():
        recovery._thread.wake()
        assert not process.cleaning.wait(0.05), "a call is under way"
    assert process.next().trigger == "calls"
    assert process.collected == [1], "under load only the younger generations"
    with recovery.call():
        clock.sleep(0.5)
        recovery._thread.wake()
        assert process.next().trigger == "calls"


def test_an_unloaded_model_is_a_reason(process: Process) -> None:
    recovery = process.recovery()
    process.leave(40 * MB)
    recovery.request("unload")
    assert (process.next().trigger, process.machine.held_bytes) == ("unload", 100 * MB)


# --- adaptive -------------------------------------------------------------------------------------------------------


def until_next(recovery: Recovery, process: Process) -> int:
    """Calls until the next clean-up."""
    for count in range(1, 2000):
        before = recovery.state().recoveries
        calls(recovery, 1)
        if recovery._pending is not None or recovery.state().recoveries > before:
            process.next()
            return count
    raise AssertionError("no clean-up in 2,000 calls")


def test_fruitless_clean_ups_become_rarer(process: Process) -> None:
    recovery = process.recovery()
    counts = [until_next(recovery, process) for _ in range(9)]
    assert counts[:5] == [10, 10, 20, 40, 80]
    assert counts[-2:] == [640, 640], "but not without end"


def test_clean_ups_whose_bytes_are_taken_again_become_rarer(process: Process) -> None:
    recovery = process.recovery()
    for _ in range(4):
        process.leave(30 * MB)  # a runtime's work buffers: freed by it, needed by the next call
        until_next(recovery, process)
    assert recovery.state().every_calls == 80


def test_growth_makes_them_frequent_again(process: Process) -> None:
    recovery = process.recovery()
    for _ in range(6):
        until_next(recovery, process)
    assert recovery.state().every_calls == 320
    process.leave(60 * MB)
    assert until_next(recovery, process) == 1
    assert recovery.state().every_calls == 5


def test_growth_that_stays_is_no_reason_for_ever(process: Process, clock: StillClock) -> None:
    recovery = process.recovery(least_interval_s=1.0)
    process.machine.hold(60 * MB)  # a leak: nothing gives it back
    cleaned_at = []
    for second in range(200):
        before = recovery.state().recoveries
        calls(recovery, 1)
        if recovery._pending is not None or recovery.state().recoveries > before:
            assert process.next().trigger in ("growth", "calls")
            cleaned_at.append(second)
        clock.sleep(1.0)
    assert 3 <= len(cleaned_at) <= 25
    assert recovery.state().growth_bytes == 60 * MB
    assert recovery.state().floor_bytes == 100 * MB


def test_it_need_not_adapt(process: Process) -> None:
    recovery = process.recovery(adaptive=False, every_calls=7)
    assert [until_next(recovery, process) for _ in range(5)] == [7] * 5


# --- what comes of it -----------------------------------------------------------------------------------------------


def test_the_floor_is_never_moved(process: Process) -> None:
    recovery = process.recovery()
    process.leave(30 * MB)
    process.machine.hold(10 * MB)
    recovery.recover_now()
    process.next()
    recovery.settle()
    assert recovery.state().floor_bytes == 100 * MB
    assert recovery.state().growth_bytes == 10 * MB


def test_by_hand_it_answers_what_came_of_it(process: Process) -> None:
    recovery = process.recovery()
    process.leave(30 * MB)
    made = recovery.recover_now()
    assert (made.trigger, made.before_bytes, made.after_bytes, made.ok) == ("hand", 130 * MB, 100 * MB, True)
    assert process.next() == made
    assert process.collected == [2]
    assert not recovery_threads()


def test_where_nobody_is_in_the_way_little_is_handed_back_too(process: Process) -> None:
    recovery = process.recovery(every_calls=1)
    process.leave(3 * MB)
    calls(recovery, 1)
    assert process.next().after_bytes == 103 * MB, "under load it does not pay"
    recovery.request("unload")
    assert process.next().after_bytes == 100 * MB
    process.leave(3 * MB)
    assert recovery.recover_now().after_bytes == 100 * MB
    process.next()


def test_nothing_to_do_is_no_failure(process: Process) -> None:
    made = process.recovery().recover_now()
    process.next()
    assert (made.before_bytes, made.after_bytes, made.ok, made.error) == (100 * MB, 100 * MB, True, "")


def test_hooks_take_part_and_one_that_raises_is_a_recorded_failure(process: Process) -> None:
    recovery = process.recovery(every_calls=1)

    def broken() -> None:
        raise RuntimeError("the device is gone")

    broken_hook = recovery.add_hook("empty the device cache", broken)
    recovery.add_hook("trim the worker", lambda: process.machine.hold(-3 * MB))
    process.leave(30 * MB)
    calls(recovery, 1)  # never reaches the call
    made = process.next()
    assert (made.ok, made.error) == (False, "empty the device cache: RuntimeError: the device is gone")
    assert made.after_bytes == 97 * MB, "the others did their part"
    assert recovery.state().recoveries_failed == 1
    broken_hook.close()
    assert recovery.recover_now().ok
    process.next()
    assert recovery.state().recoveries_failed == 1


# --- the thread -----------------------------------------------------------------------------------------------------


def test_closing_ends_the_thread(process: Process) -> None:
    recovery = process.recovery(every_calls=1)
    calls(recovery, 1)
    process.next()
    assert recovery_threads()
    recovery.close()
    recovery.close()
    assert not recovery_threads()
    calls(recovery, 20)
    recovery.request("unload")
    assert not recovery_threads()


def test_without_recovery_there_is_no_thread(process: Process) -> None:
    recovery = process.recovery(enabled=False, every_calls=1)
    process.leave(90 * MB)
    calls(recovery, 50)
    recovery.request("unload")
    assert not recovery_threads()
    assert recovery.recover_now().after_bytes == 100 * MB, "by hand it always can be"
    process.next()


def test_a_forgotten_one_takes_its_thread_along(process: Process) -> None:
    recovery = process.recovery(every_calls=1)
    calls(recovery, 1)
    process.next()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "embank-recovery"]
    process.made.clear()
    del recovery
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_many_threads_call_while_it_cleans(process: Process) -> None:
    recovery = process.recovery(every_calls=5, adaptive=False)
    threads = [threading.Thread(target=calls, args=(recovery, 200)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recovery.close()
    state = recovery.state()
    assert state.recoveries >= 1
    assert state.recoveries_failed == 0
    assert process.said.qsize() == state.recoveries
    process.said = queue.Queue()


@pytest.mark.skipif(own_bytes() is None, reason="there is no /proc here")
def test_the_real_thing_reads_this_process() -> None:
    recovery = Recovery(Settings(idle_s=None))
    recovery.settle()
    held = bytearray(b"1") * (64 * MB)
    state = recovery.state()
    assert state.growth_bytes is not None
    assert 60 * MB <= state.growth_bytes <= 90 * MB
    del held
    made = recovery.recover_now()
    assert made.ok, made.error
    if supported():
        assert made.after_bytes <= made.before_bytes + MB

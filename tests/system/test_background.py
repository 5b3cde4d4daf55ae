from __future__ import annotations

import queue
import threading

import pytest

from embank.system.background import Background

LONG_S = 10.0


class HandClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Owner:
    """Notes when it has a turn; wants the next when the test says so."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.turns: queue.Queue[float] = queue.Queue()
        self.next_s: float | None = None
        self.error: Exception | None = None
        self.thread = Background("embank-test", self.turn, clock=self.clock)

    def turn(self) -> float | None:
        self.turns.put(self.clock.seconds)
        if self.error is not None:
            raise self.error
        return self.next_s


def test_the_first_wake_starts_it_and_each_wake_is_a_turn() -> None:
    owner = Owner()
    assert not owner.thread.running
    for _ in range(3):
        owner.thread.wake()
        assert owner.turns.get(timeout=LONG_S) == 100.0
    owner.thread.close()
    assert not owner.thread.running


def test_what_is_due_by_the_owners_clock_is_done_without_a_wake() -> None:
    owner = Owner()
    owner.next_s = 99.0
    owner.thread.wake()
    for _ in range(3):
        owner.turns.get(timeout=LONG_S)
    owner.thread.close()


def test_a_turn_that_raises_is_logged_and_the_next_wake_is_served(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner()
    owner.error = ValueError("no")
    owner.thread.wake()
    owner.turns.get(timeout=LONG_S)
    owner.error = None
    owner.thread.wake()
    owner.turns.get(timeout=LONG_S)
    owner.thread.close()
    assert "a turn of the thread embank-test failed" in caplog.text


def test_a_closed_one_does_not_start_again() -> None:
    owner = Owner()
    owner.thread.close()
    owner.thread.wake()
    assert not owner.thread.running
    assert owner.turns.empty()


def test_it_may_be_closed_from_within() -> None:
    class Closing(Owner):
        def turn(self) -> float | None:
            self.thread.close()
            return super().turn()

    owner = Closing()
    owner.thread.wake()
    owner.turns.get(timeout=LONG_S)
    owner.thread.close()
    assert not owner.thread.running


def test_it_ends_with_its_owner() -> None:
    owner = Owner()
    owner.thread.wake()
    owner.turns.get(timeout=LONG_S)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "embank-test"]
    del owner
    thread.join(LONG_S)
    assert not thread.is_alive()

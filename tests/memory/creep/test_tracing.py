"""Tracing allocations: what grew, and that it never stays on."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Iterator

import pytest
from tests.memory.machine import MB, StillClock

from embank.memory.creep.tracing import Tracing

LONG_S = 10.0


@pytest.fixture
def tracing(clock: StillClock) -> Iterator[Tracing]:
    assert not tracemalloc.is_tracing()
    tracing = Tracing(most_s=30.0, most_bytes=32 * MB, clock=clock)
    yield tracing
    tracing.close()
    assert not tracemalloc.is_tracing()


def test_lines_that_hold_more_at_the_end_are_told_the_largest_first(tracing: Tracing) -> None:
    assert tracing.start()
    before = [bytes(1_000) for _ in range(100)]
    tracing.mark()
    large = [bytes(1_000) for _ in range(500)]
    small = [bytes(1_000) for _ in range(50)]
    found = tracing.finish()
    assert not tracemalloc.is_tracing()
    assert found.ended == "finished"
    assert [each.file == __file__ for each in found.top[:2]] == [True, True]
    assert found.top[0].line == found.top[1].line - 1
    assert found.top[0].blocks == pytest.approx(len(large), abs=3)
    assert found.top[0].bytes == pytest.approx(500 * 1_033, rel=0.05)
    assert found.top[1].bytes == pytest.approx(50 * 1_033, rel=0.1)
    assert found.grown_bytes == pytest.approx(550 * 1_033, rel=0.1)
    assert len(before) + len(small) == 150


def test_what_was_given_back_after_the_mark_is_no_growth(tracing: Tracing) -> None:
    tracing.start()
    held = [bytes(1_000) for _ in range(500)]
    tracing.mark()
    held.clear()
    found = tracing.finish()
    assert found.grown_bytes < -400_000
    assert all(each.file != __file__ for each in found.top)


def test_somebody_elses_tracing_is_left_alone(tracing: Tracing) -> None:
    tracemalloc.start(3)
    try:
        assert not tracing.start()
        tracing.mark()
        assert tracing.finish().ended == "closed"
        tracing.close()
        assert tracemalloc.is_tracing()
        assert tracemalloc.get_traceback_limit() == 3
    finally:
        tracemalloc.stop()


def test_it_starts_once(tracing: Tracing) -> None:
    assert tracing.start()
    assert not tracing.start()
    assert tracing.active


def test_it_ends_when_its_time_is_up_though_nobody_asks(tracing: Tracing, clock: StillClock) -> None:
    tracing.start()
    clock.sleep(31.0)
    tracing._timer.wake()
    ended = threading.Event()
    for _ in range(1_000):
        if not tracemalloc.is_tracing() or ended.wait(LONG_S / 1_000):
            break
    assert not tracemalloc.is_tracing()
    assert tracing.finish().ended == "time"


def test_it_ends_when_its_books_take_too_much(clock: StillClock) -> None:
    tracing = Tracing(most_s=30.0, most_bytes=200_000, clock=clock)
    tracing.start()
    held = [bytes(10) + bytes([number % 256]) for number in range(20_000)]
    assert not tracing.check()
    assert not tracemalloc.is_tracing()
    assert (tracing.finish().ended, len(held)) == ("memory", 20_000)
    tracing.close()


def test_it_notices_that_somebody_else_stopped_it(tracing: Tracing) -> None:
    tracing.start()
    tracemalloc.stop()
    assert not tracing.check()
    assert tracing.start()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_does_not_go_on_tracing(tracing: Tracing) -> None:
    tracing.start()
    with tracing._lock:
        child = os.fork()
        if child == 0:
            tracing.forget()
            os._exit(tracemalloc.is_tracing() or tracing.active)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert tracing.active

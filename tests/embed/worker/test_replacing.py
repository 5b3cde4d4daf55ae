"""A worker that is replaced under way: a fresh one is started first where it fits, and nobody waits or is lost."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.embed.isolation import Heard, alive, descriptors, odd_engine

from embank.embed.worker.isolated import IsolatedEngine
from embank.errors import EmbeddingFailed
from embank.events.kinds import BatchRetried, WorkerEnded, WorkerStarted

if sys.platform != "linux":
    pytest.skip("a worker process needs Linux", allow_module_level=True)

ROOM_BYTES = 10_000_000_000


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def odd(tmp_path: Path, heard: Heard) -> Iterator[Callable[..., IsolatedEngine]]:
    gc.collect()
    before = descriptors()
    made: list[IsolatedEngine] = []

    def make(**given: Any) -> IsolatedEngine:
        made.append(odd_engine(tmp_path, publisher=heard, **given))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert descriptors() <= before
    for event in heard.all(WorkerStarted):
        assert not alive(event.pid)


def vectors_of(engine: IsolatedEngine, texts: list[str]) -> Any:
    return engine.forward(engine.encode(texts, "passage").rows)


def kinds(heard: Heard) -> list[str]:
    return [event.kind for event in heard.events if isinstance(event, WorkerStarted | WorkerEnded)]


def test_where_it_fits_the_fresh_one_is_there_before_the_old_one_goes(
    odd: Callable[..., IsolatedEngine], heard: Heard
) -> None:
    engine = odd()
    before, pid, held = vectors_of(engine, ["abc"]), engine.counters().pid, engine.used_bytes()
    freed = engine.recycle(room_bytes=ROOM_BYTES)
    assert freed >= 0.9 * held > 0
    assert kinds(heard) == ["WorkerStarted", "WorkerStarted", "WorkerEnded"]
    assert heard.all(WorkerEnded)[0].cause == "recycled: replaced"
    counters = engine.counters()
    assert counters.pid not in (None, pid), "it is there without anybody having asked"
    assert (counters.started, dict(counters.ended)) == (2, {"recycled: replaced": 1})
    assert np.array_equal(vectors_of(engine, ["abc"]), before)


def test_where_it_does_not_fit_the_next_request_starts_one(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    engine = odd()
    vectors_of(engine, ["abc"])
    assert engine.recycle(room_bytes=engine.used_bytes() - 1) > 0
    assert kinds(heard) == ["WorkerStarted", "WorkerEnded"]
    assert engine.counters().pid is None
    vectors_of(engine, ["abc"])
    assert engine.counters().started == 2


def test_requests_go_on_while_it_is_replaced(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    engine = odd(retries=0)
    stop = threading.Event()

    def ask(number: int) -> int:
        asked = 0
        while not stop.is_set():
            text = "x" * (number + asked % 40)
            assert np.array_equal(vectors_of(engine, [text]), np.array([[len(text) + 1, 7, 1]], dtype=np.float32))
            asked += 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]
        freed = [engine.recycle(room_bytes=ROOM_BYTES) for _ in range(5)]
        stop.set()
        assert all(future.result(60) > 0 for future in asking)
    assert all(count > 0 for count in freed)
    assert {event.cause for event in heard.all(WorkerEnded)} == {"recycled: replaced"}
    assert heard.all(BatchRetried) == []
    assert engine.counters().started == 6


def test_a_fresh_one_that_cannot_start_leaves_the_old_ways(
    odd: Callable[..., IsolatedEngine], heard: Heard, tmp_path: Path
) -> None:
    engine = odd()
    vectors_of(engine, ["abc"])

    def fail(identity: Any) -> Any:
        keeper = real(identity)
        keeper._command = (sys.executable, "-c", "raise SystemExit(3)")
        return keeper

    real = engine._keep
    engine._keep = fail
    assert engine.recycle(room_bytes=ROOM_BYTES) > 0
    assert engine.counters().pid is None
    assert np.array_equal(vectors_of(engine, ["abc"]), np.array([[4, 7, 1]], dtype=np.float32))


def test_a_closed_engine_is_replaced_by_nothing(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    engine = odd()
    vectors_of(engine, ["abc"])
    engine.close()
    assert engine.recycle(room_bytes=ROOM_BYTES) == 0
    with pytest.raises(EmbeddingFailed, match="closed"):
        vectors_of(engine, ["abc"])
    assert len(heard.all(WorkerStarted)) == 1

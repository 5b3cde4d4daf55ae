"""A model's worker is killed fifty times at random moments while several threads embed: no vector is ever wrong."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from embank.embed.files.catalog import KNOWN
from embank.embed.files.locate import find_files
from embank.embed.loader import Loader
from embank.embed.resident import ResidentModel
from embank.embed.settings import Settings
from embank.embed.worker.isolated import IsolatedEngine
from embank.embed.worker.settings import Settings as WorkerSettings
from embank.errors import EmbeddingFailed
from embank.events.kinds import Event, WorkerEnded, WorkerStarted
from embank.testing.models import TEXTS

if sys.platform != "linux":
    pytest.skip("a worker process needs Linux", allow_module_level=True)

KILLS = 50
THREADS = 4
LEAST_COSINE = 0.998


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)


def children() -> set[int]:
    """Processes whose parent this one is, zombies included."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def kill(engine: IsolatedEngine, answered: Counter[str], asking: Sequence[Future[None]]) -> set[int]:
    """Kill so many workers, while those who ask do so; their pids."""
    rng = random.Random(11)
    killed: set[int] = set()

    def under_load() -> bool:
        return not any(future.done() for future in asking)

    while len(killed) < KILLS and under_load():
        # The moment of the kill is what is varied here: also while a worker loads, but after each two kills only when
        # there was an answer again.
        right = answered["right"]
        while len(killed) % 2 and answered["right"] == right and under_load():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.4))
        pid = engine.counters().pid
        if pid is not None and pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return killed


def test_fifty_kills_cost_no_vector(tmp_path: Path) -> None:
    if find_files(KNOWN["minilm"], directory=Path("/nonexistent")) is None:
        pytest.skip(f"the files of minilm are not installed: {KNOWN['minilm'].install}")
    gc.collect()
    children_before, files_before = children(), open_files()
    heard = Heard()
    settings = Settings(directory=tmp_path, isolation="process", threads=2)
    loader = Loader(settings, stream=heard, worker=WorkerSettings(retries=3))
    model = loader.get("minilm")
    assert isinstance(model, ResidentModel)
    corpus = [f"{text} {number}" for number in range(20) for text in TEXTS]
    reference = model.embed(corpus)
    engine = vars(model._engine)["_engine"]  # behind the handle that loaders share
    assert isinstance(engine, IsolatedEngine)

    stop = threading.Event()
    answered: Counter[str] = Counter()

    def ask(number: int) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            picked = rng.sample(range(len(corpus)), rng.choice((1, 3, 40)))
            try:
                vectors = model.embed([corpus[index] for index in picked])
            except EmbeddingFailed as error:
                answered[str(error.fields.get("cause"))] += 1
                continue
            cosines = np.einsum("ij,ij->i", vectors, reference[picked])
            assert cosines.min() >= LEAST_COSINE
            answered["right"] += 1

    with ThreadPoolExecutor(THREADS) as pool:
        asking = [pool.submit(ask, number) for number in range(THREADS)]
        killed = kill(engine, answered, asking)
        stop.set()
        for future in asking:
            future.result(120)
    assert len(killed) == KILLS
    assert answered["right"] >= KILLS / 2
    assert set(answered) <= {"right", "killed"}, "an error must name its cause"
    ended = {event.pid: event.cause for event in heard.events if isinstance(event, WorkerEnded)}
    assert killed <= set(ended)
    assert {ended[pid] for pid in killed} == {"killed"}
    assert sum(isinstance(event, WorkerStarted) for event in heard.events) > 1
    assert np.array_equal(model.embed(corpus), reference)

    loader.close()
    # Nothing is left behind. What was there before, of other tests, may have gone meanwhile.
    assert children() <= children_before
    assert open_files() <= files_before

"""The model in a worker process: real children, some of which crash, hang and lie on purpose."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.embed.isolation import HandClock, Heard, alive, descriptors, odd_engine

from embank.config import load
from embank.embed import batching
from embank.embed.engine import Unbudgeted
from embank.embed.loader import Loader
from embank.embed.model import Model
from embank.embed.resident import ResidentModel
from embank.embed.settings import Settings
from embank.embed.worker.channel import anonymous_bytes
from embank.embed.worker.isolated import IsolatedEngine, WorkerCounters
from embank.embed.worker.settings import Settings as WorkerSettings
from embank.errors import BudgetExceeded, EmbeddingFailed, ModelFileError, ModelNotFound
from embank.events.kinds import BatchRetried, ModelLoadProgressed, WorkerEnded, WorkerStarted
from embank.memory.governor import Governor
from embank.memory.meter import SystemMeter
from embank.registry import SECTIONS
from embank.testing.models import TEXTS, ModelContract

if sys.platform != "linux":
    pytest.skip("a worker process needs Linux", allow_module_level=True)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def odd(tmp_path: Path, heard: Heard) -> Iterator[Callable[..., IsolatedEngine]]:
    """Makes odd engines over `tmp_path`; all are closed at the end, and none leaves anything behind."""
    gc.collect()
    before = descriptors()
    made: list[IsolatedEngine] = []

    def make(**given: Any) -> IsolatedEngine:
        given.setdefault("publisher", heard)
        made.append(odd_engine(tmp_path, **given))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert descriptors() <= before
    for pid in loads(tmp_path):
        assert not alive(pid), "a worker was left behind, or left a zombie"


def loads(folder: Path) -> list[int]:
    """Pids of the workers that began to load the odd model."""
    told = folder / "loads"
    return [int(line) for line in told.read_text().split()] if told.exists() else []


def vectors_of(engine: IsolatedEngine, texts: list[str]) -> Any:
    return engine.forward(engine.encode(texts, "passage").rows)


def right(texts: list[str]) -> Any:
    return np.array([[len(text) + 1, 7, 1] for text in texts], dtype=np.float32)


def pid_of(engine: IsolatedEngine) -> int:
    pid = engine.counters().pid
    assert pid is not None
    return pid


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def isolated(make_loader: Callable[..., Loader], minilm_files: Path) -> ResidentModel:
    model = make_loader(isolation="process").get("minilm", precision="int8")
    assert isinstance(model, ResidentModel)
    return model


class TestIsolatedCt2Int8(ModelContract):
    tolerance = 0.998

    @pytest.fixture
    def model(self, isolated: ResidentModel) -> Model:
        return isolated


class TestIsolatedStatic(ModelContract):
    @pytest.fixture
    def model(self, make_loader: Callable[..., Loader], wordllama_files: Path) -> Model:
        return make_loader(isolation="process").get("wordllama")


def test_it_gives_the_vectors_of_the_same_engine_in_this_process(
    make_loader: Callable[..., Loader], wordllama_files: Path
) -> None:
    here, there = make_loader().get("wordllama"), make_loader(isolation="process").get("wordllama")
    assert there.fingerprint == here.fingerprint
    assert there.max_tokens == here.max_tokens
    texts = [f"{text} {number}" for number in range(80) for text in TEXTS]
    assert np.array_equal(here.embed(texts), there.embed(texts))
    assert isinstance(here, ResidentModel)
    assert isinstance(there, ResidentModel)
    assert here.count_tokens(texts) == there.count_tokens(texts)


def test_split_long_texts_keep_their_owners(
    make_loader: Callable[..., Loader], minilm_files: Path, tmp_path: Path
) -> None:
    """With a conversion of its own: what is converted is compared with vectors of truncated texts, whatever is set."""
    model = make_loader(isolation="process", long_texts="split", directory=tmp_path).get("minilm")
    assert isinstance(model, ResidentModel)
    long = " ".join(f"word{number}" for number in range(2000))
    together = model.embed(["short", long, "brief"])
    for text, vector in zip(["short", long, "brief"], together, strict=True):
        assert float(vector @ model.embed([text])[0]) >= 0.998
    assert model.count_tokens([long, "a b"])[0] > 2000


def test_this_process_imports_no_runtime(models_directory: Path, minilm_files: Path) -> None:
    script = f"""
import json, sys
from pathlib import Path
from embank.embed.loader import Loader
from embank.embed.settings import Settings
loader = Loader(Settings(directory=Path({str(models_directory)!r}), isolation="process", threads=1))
shape = loader.get("minilm").embed(["a text", "another"]).shape
loader.close()
json.dump([shape, sorted(sys.modules)], sys.stdout)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    shape, modules = json.loads(told.stdout)
    assert shape == [2, 384]
    assert not {"ctranslate2", "tokenizers", "torch", "multiprocessing"} & set(modules)


def test_the_settings_have_a_section() -> None:
    config = load(SECTIONS, file=None, environ={"EMBANK_WORKER__RECYCLE_GROWTH": "32MB"}, flags={"worker.retries": 5})
    assert config.section("worker").recycle_growth.resolve(1) == 32_000_000
    assert config.section("worker").retries == 5


# --- identity -------------------------------------------------------------------------------------------------------


def test_it_says_of_itself_what_its_engine_says(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    progress: list[tuple[float, str]] = []
    engine = odd(on_progress=lambda fraction, step: progress.append((fraction, step)))
    assert (engine.device, engine.max_tokens, engine.batch_tokens, engine.lanes) == ("cpu", 64, 128, 3)
    assert engine.length_step is None
    assert engine.fingerprint.name == "odd"
    assert [engine.batch_bytes(5, width) for width in (1, 30, 64)] == [5 * (1000 * w + w * w) for w in (1, 30, 64)]
    assert progress == [(0.25, "looking odd"), (0.75, "still looking odd")]
    (started,) = heard.all(WorkerStarted)
    assert started.pid == pid_of(engine)
    assert started.bytes > 1_000_000
    assert started.seconds > 0


def test_batch_bytes_asks_nobody(odd: Callable[..., IsolatedEngine]) -> None:
    engine = odd()
    engine.recycle()
    assert engine.batch_bytes(2, 10) == 2 * (10_000 + 100)
    assert engine.counters().pid is None


def test_used_bytes_are_the_childs_as_measured(odd: Callable[..., IsolatedEngine]) -> None:
    engine = odd()
    assert engine.used_bytes() == pytest.approx(anonymous_bytes(pid_of(engine)), rel=0.2)
    assert odd(measure=lambda _pid: 12_345).used_bytes() == 12_345
    engine.close()
    assert engine.used_bytes() == 0


def test_a_replacement_of_other_files_is_refused(odd: Callable[..., IsolatedEngine], tmp_path: Path) -> None:
    engine = odd()
    (tmp_path / "on-load").write_text("weights others")
    engine.recycle()
    for _ in range(2):
        with pytest.raises(ModelFileError, match="changed while its worker was replaced"):
            vectors_of(engine, ["abc"])
    (tmp_path / "on-load").unlink()
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))


# --- asking ---------------------------------------------------------------------------------------------------------


def test_many_threads_get_their_own_answers(odd: Callable[..., IsolatedEngine], tmp_path: Path) -> None:
    engine = odd()

    def ask(number: int) -> bool:
        texts = ["x" * (number * 7 % 50 + part) for part in range(number % 5 + 1)]
        counts = engine.count([f"{text} word" for text in texts])
        return np.array_equal(vectors_of(engine, texts), right(texts)) and counts == [
            len(f"{t} w".split()) for t in texts
        ]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(300)))
    assert loads(tmp_path) == [pid_of(engine)]


def test_batches_are_computed_beside_each_other(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    """Two of three lanes are held; the third goes on."""
    engine = odd(retries=0)
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(vectors_of, engine, ["linger: for ever"]) for _ in range(2)]
        for _ in range(20):
            assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))
        assert not any(future.done() for future in held)
        os.kill(pid_of(engine), signal.SIGKILL)
        for future in held:
            with pytest.raises(EmbeddingFailed, match="killed"):
                future.result(60)


def test_an_answer_longer_than_expected_is_asked_for_again(odd: Callable[..., IsolatedEngine]) -> None:
    engine = odd()
    encoded = engine.encode(["many tokens", "many tokens"], "query")
    assert [len(row) for row in encoded.rows] == [20_000] * 6
    assert encoded.owners is not None
    assert encoded.owners.tolist() == [0, 0, 0, 1, 1, 1]


def test_texts_of_megabytes_go_over_in_parts(odd: Callable[..., IsolatedEngine]) -> None:
    engine = odd()
    texts = ["x" * 700_000 for _ in range(6)] + ["ü" * 3_000_000, "end"]
    encoded = engine.encode(texts, "passage")
    assert [int(row[0]) for row in encoded.rows] == [len(text) + 1 for text in texts]
    assert encoded.owners is None
    assert encoded.truncated == 8  # one for each request
    assert engine.count(["a b"] * 3 + ["c " * 2_000_000]) == [2, 2, 2, 2_000_000]
    assert engine.encode([], "query").rows == []
    assert engine.count([]) == []


def test_its_memory_shrinks_again_after_a_large_text(odd: Callable[..., IsolatedEngine]) -> None:
    engine = odd()
    vectors_of(engine, ["abc"])
    worker = engine._keeper._current
    assert worker is not None
    engine.count(["word " * 4_000_000])  # 20 MB
    assert worker.memory.held_bytes() <= 1 << 20
    engine.recycle()
    # Of this worker alone: what the rest of the process holds is other tests' affair.
    assert not alive(worker.pid)
    vectors_of(engine, ["abc"])
    successor = engine._keeper._current
    assert successor is not None
    assert successor.pid != worker.pid
    assert successor.memory.held_bytes() <= 1 << 20


def test_what_the_engine_raises_is_raised_here_and_not_tried_again(
    odd: Callable[..., IsolatedEngine], heard: Heard
) -> None:
    engine = odd()
    with pytest.raises(EmbeddingFailed, match="the odd engine failed") as caught:
        vectors_of(engine, ["failed: always"])
    assert caught.value.fields == {"model": "odd", "index": 4}
    assert "odd_worker.py" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="the odd engine does not like this"):
        vectors_of(engine, ["value: always"])
    with pytest.raises(EmbeddingFailed, match=r"answered with shape \(1, 2\) where \(1, 3\) was due"):
        vectors_of(engine, ["shape: always"])
    with pytest.raises(EmbeddingFailed, match="the model 'odd' failed on 1 texts: the odd engine does not like this"):
        batching.embed(engine, ["value: again"], "passage", budget=Unbudgeted(), publisher=heard)
    assert heard.all(BatchRetried) == []
    assert heard.all(WorkerEnded) == []
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))


# --- losing it ------------------------------------------------------------------------------------------------------

LOSSES = {
    "crash": ("crash", "status 7: the odd engine crashes"),
    "segfault": ("crash", "SIGSEGV"),
    "leave": ("crash", "status 0"),
    "kill": ("killed", "SIGKILL"),
    "memory": ("memory", "no room for 5 GB"),
    "garbage": ("garbage", "not the beginning of a message"),
    "half": ("truncated", "in the midst of a message"),
    "stranger": ("garbage", "request 999999, which was not asked"),
    "stale": ("garbage", "generation 2 came where 1 was due"),
    "spoiled": ("garbage", "checksum"),
}


@pytest.mark.parametrize("word", LOSSES)
def test_a_lost_worker_is_a_retried_batch(word: str, odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    cause, detail = LOSSES[word]
    engine = odd()
    first = pid_of(engine)
    texts = ["abc", f"once {word}: now", "defgh"]
    assert np.array_equal(vectors_of(engine, texts), right(texts))
    assert pid_of(engine) != first
    (ended,) = heard.all(WorkerEnded)
    assert (ended.pid, ended.cause) == (first, cause)
    assert detail in ended.detail
    assert ended.peak_bytes > 1_000_000
    (retried,) = heard.all(BatchRetried)
    assert (retried.cause, retried.attempt) == (cause, 1)
    assert engine.counters() == WorkerCounters(pid_of(engine), 2, {cause: 1}, {cause: 1})


def test_an_answer_of_the_wrong_length_is_a_retried_batch(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    engine = odd()
    texts = ["abc", "once short: now", "defgh"]
    assert np.array_equal(vectors_of(engine, texts), right(texts))
    assert [event.cause for event in heard.all(WorkerEnded)] == ["wrong answer"]
    assert [event.cause for event in heard.all(BatchRetried)] == ["wrong answer"]


@pytest.mark.parametrize(("word", "advice"), [("crash", "the odd engine crashes"), ("kill", r"embed\.padded_tokens")])
def test_after_so_many_retries_it_fails_and_says_why(
    word: str, advice: str, odd: Callable[..., IsolatedEngine], heard: Heard, clock: HandClock
) -> None:
    engine = odd(retries=3, clock=clock)
    with pytest.raises(EmbeddingFailed, match=rf"'odd' was lost 4 times in a row, at last by .*{advice}") as caught:
        vectors_of(engine, [f"{word}: always"])
    assert caught.value.fields == {"model": "odd", "cause": LOSSES[word][0], "attempts": 4}
    assert [event.attempt for event in heard.all(BatchRetried)] == [1, 2, 3]
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))


def test_the_neighbours_of_a_deadly_text_are_answered(odd: Callable[..., IsolatedEngine]) -> None:
    engine = odd(retries=20)

    def ask(number: int) -> bool:
        texts = [f"once crash: {number}"] if number % 10 == 0 else ["x" * number]
        return np.array_equal(vectors_of(engine, texts), right(texts))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(60)))
    assert 1 <= engine.counters().ended["crash"] <= 6


def test_a_worker_that_dies_in_between_is_replaced_by_the_next_request(
    odd: Callable[..., IsolatedEngine], heard: Heard
) -> None:
    engine = odd()
    os.kill(pid_of(engine), signal.SIGKILL)
    heard.wait_for(WorkerEnded)
    assert engine.used_bytes() == 0
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))
    assert heard.all(BatchRetried) == []


# --- hanging --------------------------------------------------------------------------------------------------------


def test_a_stopped_worker_is_ended_and_replaced(
    odd: Callable[..., IsolatedEngine], heard: Heard, clock: HandClock
) -> None:
    engine = odd(clock=clock, heartbeat_s=5)
    first = pid_of(engine)

    def look_later() -> None:
        clock.seconds += 3
        engine._keeper.tend()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(vectors_of, engine, ["once stop: now"])
        ended = heard.wait_for(WorkerEnded, poke=look_later)
        assert np.array_equal(answer.result(60), right(["once stop: now"]))
    assert (ended.pid, ended.cause) == (first, "hang")
    assert "no sign of life for 5 s (worker.heartbeat_s)" in ended.detail


def test_a_batch_past_its_deadline_is_ended_though_the_worker_lives(
    odd: Callable[..., IsolatedEngine], heard: Heard, clock: HandClock
) -> None:
    engine = odd(clock=clock, heartbeat_s=1e6, deadline_s=30)

    def look_later() -> None:
        clock.seconds += 10
        engine._keeper.tend()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(vectors_of, engine, ["once linger: now"])
        ended = heard.wait_for(WorkerEnded, poke=look_later)
        assert np.array_equal(answer.result(60), right(["once linger: now"]))
    assert (ended.cause, ended.detail) == ("hang", "a batch took longer than 30 s (worker.deadline_s)")


def test_a_busy_worker_gives_signs_of_life(odd: Callable[..., IsolatedEngine], heard: Heard, clock: HandClock) -> None:
    """It computes for much longer than the heartbeat's limit, and is left alone."""
    engine = odd(clock=clock, heartbeat_s=10, deadline_s=1e6, retries=0)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(vectors_of, engine, ["linger: for ever"])
        channel = engine._keeper._current
        assert channel is not None
        for _ in range(8):
            # Pinged, and answered: at each look there is one or the other.
            for wanted in (False, True):
                while (channel._pinged_at_s is None) is not wanted and not heard.all(WorkerEnded):
                    engine._keeper.tend()
            clock.seconds += 9
        assert not held.done()
        assert heard.all(WorkerEnded) == []
        os.kill(pid_of(engine), signal.SIGKILL)
        with pytest.raises(EmbeddingFailed, match="SIGKILL"):
            held.result(60)


# --- starting -------------------------------------------------------------------------------------------------------


def test_fifty_threads_start_one_worker(odd: Callable[..., IsolatedEngine], tmp_path: Path) -> None:
    engine = odd()
    engine.recycle()
    gate = threading.Barrier(50)

    def ask(number: int) -> bool:
        gate.wait()
        return np.array_equal(vectors_of(engine, ["x" * number]), right(["x" * number]))

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(ask, range(50)))
    assert len(loads(tmp_path)) == 2


def test_a_worker_that_dies_at_its_start_is_told_with_its_last_words(
    odd: Callable[..., IsolatedEngine], tmp_path: Path, heard: Heard, clock: HandClock
) -> None:
    (tmp_path / "on-load").write_text("crash")
    with pytest.raises(EmbeddingFailed, match=r"lost 3 times in a row, at last by crash: .* no such instruction"):
        odd(clock=clock)
    assert len(loads(tmp_path)) == 3
    assert heard.all(WorkerStarted) == []
    assert [event.cause for event in heard.all(WorkerEnded)] == ["crash"] * 3


def test_a_crash_loop_backs_off_gives_up_and_recovers_by_the_next_call(
    odd: Callable[..., IsolatedEngine], tmp_path: Path, clock: HandClock
) -> None:
    engine = odd(clock=clock, retries=9)
    (tmp_path / "on-load").write_text("crash")
    engine.recycle()
    with pytest.raises(EmbeddingFailed, match="lost 10 times in a row"):
        vectors_of(engine, ["abc"])
    assert clock.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    (tmp_path / "on-load").unlink()
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))
    assert len(clock.slept) == 9
    engine.recycle()
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))
    assert len(clock.slept) == 9  # an answer ended the loop


def test_what_the_load_raises_is_raised_here_and_not_tried_again(
    odd: Callable[..., IsolatedEngine], tmp_path: Path, heard: Heard
) -> None:
    (tmp_path / "on-load").write_text("damaged")
    with pytest.raises(ModelFileError, match="the odd weights are damaged") as caught:
        odd()
    assert caught.value.fields == {"path": str(tmp_path)}
    (ended,) = heard.all(WorkerEnded)
    assert (ended.cause, ended.detail) == ("load failed", "the odd weights are damaged")
    (tmp_path / "on-load").write_text("unknown")
    with pytest.raises(RuntimeError, match="TimeOutOfJoint: after 1970"):
        odd()
    assert len(loads(tmp_path)) == 2


def test_a_load_that_has_no_memory_says_what_to_set(
    odd: Callable[..., IsolatedEngine], tmp_path: Path, clock: HandClock
) -> None:
    (tmp_path / "on-load").write_text("memory")
    with pytest.raises(EmbeddingFailed, match=r"at last by memory: .*embed\.precision = int8"):
        odd(clock=clock)


def test_a_load_that_gets_nowhere_is_ended(
    odd: Callable[..., IsolatedEngine], tmp_path: Path, heard: Heard, clock: HandClock
) -> None:
    engine = odd(clock=clock, start_timeout_s=60, heartbeat_s=1e6, retries=0)
    engine.recycle()
    (tmp_path / "on-load").write_text("linger")

    def look_later() -> None:
        if len(loads(tmp_path)) == 2:
            clock.seconds += 50
            engine._keeper.tend()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(vectors_of, engine, ["abc"])
        ended = heard.wait_for(WorkerEnded, 2, poke=look_later)
        with pytest.raises(EmbeddingFailed, match=r"no further for 60 s \(worker\.start_timeout_s\)"):
            answer.result(60)
    assert ended.cause == "hang"


def test_a_command_that_is_not_there_is_told(odd: Callable[..., IsolatedEngine], clock: HandClock) -> None:
    with pytest.raises(EmbeddingFailed, match="lost 3 times in a row, at last by start: the worker can't be started"):
        odd(command=["/nonexistent/python"], clock=clock)


def test_a_missing_model_is_told_as_in_this_process(tmp_path: Path) -> None:
    loader = Loader(Settings(directory=tmp_path, isolation="process"))
    with pytest.raises(ModelNotFound, match="there is no model folder"):
        loader.get("/nonexistent/model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError):
        loader.get(str(tmp_path / "empty"))
    loader.close()


def test_a_load_is_held_to_the_budget(odd: Callable[..., IsolatedEngine], tmp_path: Path, heard: Heard) -> None:
    reading = SystemMeter().read().tree_bytes
    governor = Governor(reading + 200_000_000)
    engine = odd(budget=governor)
    assert governor.snapshot().granted == 1
    assert governor.snapshot().reserved_bytes == 0
    engine.close()
    with pytest.raises(BudgetExceeded, match=r"load odd needs 5\.0 MB") as caught:
        odd(budget=Governor(4_000_000, baseline_bytes=1 << 40))
    assert caught.value.fields["wanted_bytes"] == 5_000_000


def test_loading_is_told_to_those_who_wait(minilm_files: Path, models_directory: Path, heard: Heard) -> None:
    loader = Loader(Settings(directory=models_directory, isolation="process", threads=1), stream=heard)
    loader.get("minilm")
    assert heard.all(ModelLoadProgressed)
    (state,) = [state for state in loader.states() if state.name == "minilm"]
    assert state.status == "ready"
    assert state.used_bytes > 20_000_000
    loader.close()


# --- recycling ------------------------------------------------------------------------------------------------------


def test_recycling_gives_everything_back_and_changes_nothing(isolated: ResidentModel) -> None:
    engine = vars(isolated._engine)["_engine"]  # behind the handle that loaders share
    assert isinstance(engine, IsolatedEngine)
    meter = SystemMeter()
    before = isolated.embed(TEXTS)
    pid, held = pid_of(engine), engine.used_bytes()
    with_worker = meter.read()
    freed = engine.recycle()
    without = meter.read()
    assert freed >= 0.9 * held > 20_000_000
    assert not alive(pid)
    assert (isolated.used_bytes(), engine.counters().pid) == (0, None)
    assert without.processes == with_worker.processes - 1
    assert with_worker.tree_bytes - without.tree_bytes >= 0.9 * held
    assert engine.recycle() == 0
    assert np.array_equal(isolated.embed(TEXTS), before)
    assert pid_of(engine) != pid


def test_requests_wait_while_it_is_recycled(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    engine = odd(retries=0)
    stop = threading.Event()

    def ask(number: int) -> int:
        asked = 0
        while not stop.is_set():
            texts = ["x" * (number + asked % 40)]
            assert np.array_equal(vectors_of(engine, texts), right(texts))
            asked += 1
        return asked

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask, number) for number in range(6)]
        freed = [engine.recycle() for _ in range(5)]
        stop.set()
        assert all(future.result(60) > 0 for future in asking)
    assert sum(count > 0 for count in freed) >= 1
    assert {event.cause for event in heard.all(WorkerEnded)} == {"recycled: asked"}
    assert heard.all(BatchRetried) == []


def test_a_worker_that_grew_is_replaced(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    engine = odd(recycle_growth="32MB")
    for _ in range(10):
        vectors_of(engine, ["abc"])
    assert heard.all(WorkerEnded) == []
    vectors_of(engine, ["grow: once"])
    ended = heard.wait_for(WorkerEnded, poke=engine._keeper.tend)
    assert ended.cause == "recycled: growth"
    assert ended.peak_bytes > 48 << 20
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))


def test_growth_before_it_was_warm_is_none(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    held = 10_000_000
    engine = odd(recycle_growth="50%", measure=lambda _pid: held)
    vectors_of(engine, ["abc"])
    held = 100_000_000
    for _ in range(20):
        vectors_of(engine, ["abc"])
    held = 149_000_000
    for _ in range(20):
        vectors_of(engine, ["abc"])
    assert heard.all(WorkerEnded) == []
    held = 150_000_000
    assert heard.wait_for(WorkerEnded, poke=engine._keeper.tend).cause == "recycled: growth"


def test_a_worker_that_aged_is_replaced(odd: Callable[..., IsolatedEngine], heard: Heard, clock: HandClock) -> None:
    engine = odd(recycle_age_s=3600, recycle_idle_s=None, clock=clock)
    clock.seconds += 3599
    for _ in range(40):
        vectors_of(engine, ["abc"])
    assert heard.all(WorkerEnded) == []
    clock.seconds += 1
    assert heard.wait_for(WorkerEnded, poke=engine._keeper.tend).cause == "recycled: age"
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))
    assert len(heard.all(WorkerStarted)) == 2


def test_a_worker_is_replaced_after_so_many_calls(odd: Callable[..., IsolatedEngine], heard: Heard) -> None:
    engine = odd(recycle_calls=10)
    for number in range(10, 50):
        texts = ["x" * number]
        assert np.array_equal(vectors_of(engine, texts), right(texts))
    heard.wait_for(WorkerEnded, 8)
    assert [event.cause for event in heard.all(WorkerEnded)] == ["recycled: calls"] * 8
    assert heard.all(BatchRetried) == []


def test_an_idle_worker_is_ended_and_the_next_request_starts_one(
    odd: Callable[..., IsolatedEngine], heard: Heard, clock: HandClock, tmp_path: Path
) -> None:
    engine = odd(recycle_idle_s=120, clock=clock)
    clock.seconds += 119
    vectors_of(engine, ["abc"])
    clock.seconds += 119
    engine._keeper.tend()
    assert heard.all(WorkerEnded) == []
    pid = pid_of(engine)
    clock.seconds += 1
    assert heard.wait_for(WorkerEnded, poke=engine._keeper.tend).cause == "recycled: idle"
    assert not alive(pid)
    assert engine.used_bytes() == 0
    clock.seconds += 10_000
    assert len(loads(tmp_path)) == 1
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))
    assert len(loads(tmp_path)) == 2


def test_a_pinned_models_worker_is_not_ended_for_idleness(
    odd: Callable[..., IsolatedEngine], heard: Heard, clock: HandClock
) -> None:
    engine = odd(recycle_idle_s=120, recycle_age_s=1e9, clock=clock, pinned=True)
    clock.seconds += 10_000
    engine._keeper.tend()
    vectors_of(engine, ["abc"])
    assert heard.all(WorkerEnded) == []


# --- ending ---------------------------------------------------------------------------------------------------------


def test_a_closed_engine_says_so(odd: Callable[..., IsolatedEngine]) -> None:
    engine = odd()
    pid = pid_of(engine)
    engine.close()
    engine.close()
    assert not alive(pid)
    assert engine.recycle() == 0
    with pytest.raises(EmbeddingFailed, match="the model 'odd' is closed"):
        vectors_of(engine, ["abc"])


def test_unloading_ends_the_worker(minilm_files: Path, models_directory: Path, heard: Heard) -> None:
    loader = Loader(Settings(directory=models_directory, isolation="process", threads=1), stream=heard)
    model = loader.get("minilm")
    before = model.embed(["abc"])
    (started,) = heard.all(WorkerStarted)
    assert loader.unload("minilm") > 20_000_000
    assert not alive(started.pid)
    assert np.array_equal(model.embed(["abc"]), before)
    loader.close()
    assert [event.cause for event in heard.all(WorkerEnded)] == ["closed", "closed"]


def test_the_worker_dies_with_its_parent(tmp_path: Path) -> None:
    """However the parent dies: here by SIGKILL, in the midst of a batch."""
    script = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.embed.isolation import odd_engine
engine = odd_engine(Path(sys.argv[2]))
rows = engine.encode(["linger: for ever"], "query").rows
threading.Thread(target=engine.forward, args=(rows,), daemon=True).start()
print(engine.counters().pid, flush=True)
threading.Event().wait()
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(root), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        gone = os.pidfd_open(pid)
        parent.kill()
        parent.wait(60)
    import select

    assert select.select([gone], [], [], 60)[0], "the worker outlived its parent"
    os.close(gone)


def test_after_a_fork_it_says_whose_it_is(odd: Callable[..., IsolatedEngine]) -> None:
    """The child of a fork has the handle but not the thread that reads for it."""
    engine = odd()
    read_end, write_end = os.pipe()
    pid = _fork()
    if pid == 0:
        said = b"nothing"
        try:
            vectors_of(engine, ["abc"])
        except EmbeddingFailed as error:
            said = str(error).encode()
        finally:
            os.write(write_end, said)
            os._exit(0)
    os.waitpid(pid, 0)
    assert b"open the model after the fork" in os.read(read_end, 1000)
    os.close(read_end)
    os.close(write_end)
    assert np.array_equal(vectors_of(engine, ["abc"]), right(["abc"]))


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn that there are threads: that is what is tested
        return os.fork()


# --- memory that runs out -------------------------------------------------------------------------------------------


def test_an_address_space_that_is_full_is_a_retried_batch(
    isolated: ResidentModel, heard: Heard, models_directory: Path
) -> None:
    """The worker's limit is lowered under it; a fresh worker has the old one."""
    before = isolated.embed(TEXTS)
    engine = vars(isolated._engine)["_engine"]  # behind the handle that loaders share
    assert isinstance(engine, IsolatedEngine)
    pid = pid_of(engine)
    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
    many = [f"{text} {number}" for number in range(60) for text in TEXTS]
    vectors = isolated.embed(many)
    assert np.isfinite(vectors).all()
    assert np.array_equal(isolated.embed(TEXTS), before)
    assert pid_of(engine) != pid
    assert sum(engine.counters().retried.values()) >= 1


@contextlib.contextmanager
def limited_group(limit_bytes: int) -> Iterator[Path]:
    """A control group of this test's own; skips where none can be made."""
    root = Path("/sys/fs/cgroup/memory")
    group = root / f"embank-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        group.rmdir()


def test_a_worker_that_the_kernel_kills_for_memory_is_replaced(
    odd: Callable[..., IsolatedEngine], heard: Heard
) -> None:
    engine = odd()
    first = pid_of(engine)
    with limited_group(8 << 20) as group:
        (group / "cgroup.procs").write_text(str(first))
        texts = ["grow: beyond the limit"]
        assert np.array_equal(vectors_of(engine, texts), right(texts))
        (ended,) = heard.all(WorkerEnded)
        assert (ended.pid, ended.cause) == (first, "killed")


def test_section_values_are_checked() -> None:
    with pytest.raises(ValueError, match="retries"):
        WorkerSettings(retries=-1)
    with pytest.raises(ValueError, match="is not a size"):
        WorkerSettings.model_validate({"recycle_growth": "lots"})

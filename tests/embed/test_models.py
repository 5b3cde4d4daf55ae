"""`embank.models.load`: a model in the hand, without a bank."""

from __future__ import annotations

import contextlib
import doctest
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import embank
from embank.embed import models
from embank.embed.model import CountsTokens, Model
from embank.errors import BudgetExceeded, EmbeddingFailed, InvalidInput, ModelNotFound
from embank.events.kinds import ModelLoaded, ModelUnloaded
from embank.memory.trim import supported

if TYPE_CHECKING:
    from embank.embed.model import Vectors

OWN_THREADS = ("embank-idle", "embank-recovery")


def own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name in OWN_THREADS}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Other tests' loaders may have threads of their own."""
    threads = own_threads()
    yield
    gc.collect()
    assert models.states() == []
    assert not own_threads() - threads


def test_the_example_of_the_documentation_runs(wordllama_files: Path) -> None:
    ran = doctest.testmod(models)
    assert (ran.failed, ran.attempted) == (0, 3)


def test_the_public_door_gives_a_model(wordllama_files: Path) -> None:
    with embank.models.load("wordllama") as model:
        assert isinstance(model, Model)
        assert isinstance(model, CountsTokens)
        vectors = model.embed(["Rivers carry silt.", "Bread rises."])
        assert vectors.dtype == np.float32
        assert vectors.shape == (2, model.dimension)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert model.count_tokens(["Rivers carry silt."])[0] >= 3
        (state,) = embank.models.states()
        assert (state.name, state.status, state.engine, state.device) == ("wordllama", "ready", "static", "cpu")
    with pytest.raises(EmbeddingFailed, match="'wordllama' was closed"):
        model.embed(["Rivers carry silt."])
    model.close()


def test_the_same_options_give_the_same_model(wordllama_files: Path) -> None:
    first = embank.models.load("wordllama")
    second = embank.models.load("wordllama")
    other = embank.models.load("wordllama", dimensions=64)
    loaded: list[str] = []
    assert [state.users for state in embank.models.states()] == [0, 0], "one for both, and one that is narrower"
    assert other.dimension == 64
    with second.events.subscribe() as events:
        second.close()
        assert first.embed(["a"]).shape == (1, 256), "it goes with the last handle, not before"
        first.close()
        loaded = [event.model for event in events if isinstance(event, ModelUnloaded)]
    assert loaded == ["wordllama"]
    other.close()


def test_a_forgotten_handle_counts_no_longer(wordllama_files: Path) -> None:
    first = embank.models.load("wordllama")
    forgotten = embank.models.load("wordllama")
    del forgotten
    gc.collect()
    first.close()
    assert embank.models.states() == []


def test_fifty_threads_load_it_once(minilm_files: Path, models_directory: Path) -> None:
    gate = threading.Barrier(50)
    with embank.models.load("minilm", directory=models_directory, threads=1) as probe:
        probe.release()
        with probe.events.subscribe(capacity=10_000) as events:

            def ask(number: int) -> Vectors:
                gate.wait()
                with embank.models.load("minilm", directory=models_directory, threads=1) as model:
                    return model.embed([f"text {number % 5}"])

            with ThreadPoolExecutor(50) as pool:
                vectors = list(pool.map(ask, range(50)))
            loads = sum(isinstance(event, ModelLoaded) for event in events.drain())
    assert loads == 1
    for number in range(50):
        assert np.array_equal(vectors[number], vectors[number % 5])


def test_progress_is_told_from_the_beginning_to_the_end(minilm_files: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float, str]] = []
    with embank.models.load(
        "minilm", directory=tmp_path, threads=1, on_progress=lambda *said: told.append(said)
    ) as model:
        assert {name for name, _, _ in told} == {"minilm"}
        fractions = [fraction for _, fraction, _ in told]
        assert fractions == sorted(fractions)
        assert len(fractions) >= 4, "the conversion is seen, too"
        assert fractions[-1] == 1.0
        model.release()
        told.clear()
        model.embed(["a"])
        assert told == [], "what asked for it was answered long ago"


def test_a_budget_holds(wordllama_files: Path, minilm_files: Path, models_directory: Path) -> None:
    with embank.models.load("wordllama", memory="64MB") as model:
        held = model.memory()
        assert held is not None
        assert held.budget_bytes == 64_000_000
        assert [name for name, _ in held.consumers] == ["model wordllama"]
        assert model.embed(["a"]).shape == (1, 256)
    with pytest.raises(BudgetExceeded):
        embank.models.load("minilm", memory="8MB", directory=models_directory)
    with embank.models.load("wordllama") as unbounded:
        assert unbounded.memory() is None


def test_release_gives_back_and_the_next_call_loads_again(minilm_files: Path, models_directory: Path) -> None:
    with embank.models.load("minilm", directory=models_directory, threads=1) as model:
        before = model.embed(["Rivers carry silt."])
        made = model.release()
        assert made.ok, made.error
        assert model.state().status == "absent"
        if supported():
            assert made.after_bytes <= made.before_bytes
        assert np.array_equal(model.embed(["Rivers carry silt."]), before)
        assert model.state().status == "ready"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads"),
        ({"device": "abacus"}, "abacus"),
        ({"isolation": "somewhere"}, "isolation"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"memory": "much"}, "much"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        embank.models.load("wordllama", **options)  # type: ignore[arg-type]


def test_a_failed_load_leaves_nothing_behind() -> None:
    with pytest.raises(ModelNotFound, match="did you mean 'minilm'"):
        embank.models.load("minlm")
    with contextlib.suppress(ModelNotFound):
        embank.models.load("minlm", memory="10%")

"""One engine a process: opened once, closed with its last holder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import embank
from embank.embed.engine import Engine, LoadRequest
from embank.embed.loader import Loader
from embank.embed.resident import ResidentModel
from embank.embed.settings import Settings
from embank.embed.shared import SharedEngines
from embank.errors import EmbeddingFailed, ModelFileError
from embank.registry import ENGINES, resolve


@pytest.fixture
def counted() -> tuple[Callable[[str], Callable[[LoadRequest], Engine]], list[str]]:
    """The real engines, and a name for each that was opened."""
    opened: list[str] = []

    def engine_of(name: str) -> Callable[[LoadRequest], Engine]:
        def load(request: LoadRequest) -> Engine:
            opened.append(request.name)
            engine: Engine = resolve(ENGINES, name)(request)
            return engine

        return load

    return engine_of, opened


def test_two_loaders_have_one_engine(
    wordllama_files: Path,
    models_directory: Path,
    counted: tuple[Callable[[str], Callable[[LoadRequest], Engine]], list[str]],
) -> None:
    engine_of, opened = counted
    settings = Settings(model="wordllama", directory=models_directory)
    one, other = (Loader(settings, engine_of=engine_of) for _ in range(2))
    first, second = one.get(), other.get()
    vectors = first.embed(["rivers"])
    assert opened == ["wordllama"]
    one.close()
    assert np.array_equal(second.embed(["rivers"]), vectors), "the other's is still open"
    other.close()
    third = Loader(settings, engine_of=engine_of)
    third.get()
    assert opened == ["wordllama"] * 2, "with the last holder it was closed"
    third.close()


def test_a_handle_that_is_forgotten_in_the_midst_of_another_call_is_let_go_and_nobody_waits_for_ever() -> None:
    """The collector runs at any moment, here while the engines are locked."""
    engines, closed = SharedEngines(), threading.Event()
    handles: list[Engine] = []

    class Collecting(str):
        __slots__ = ()

        def __hash__(self) -> int:
            handles.clear()
            return super().__hash__()

    handles.append(engines.get("old", lambda: cast("Engine", Closable(closed))))
    asking = threading.Thread(
        target=engines.get, args=(Collecting("new"), lambda: cast("Engine", Closable(threading.Event()))), daemon=True
    )
    asking.start()
    asking.join(60)
    assert not asking.is_alive()
    assert closed.is_set()


class Closable:
    """As much of an engine as a handle asks for."""

    fingerprint, max_tokens, batch_tokens, lanes, length_step = "x:1", 8, 8, 1, 1

    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed

    def close(self) -> None:
        self._closed.set()


def test_another_setting_is_another_engine(
    wordllama_files: Path,
    models_directory: Path,
    counted: tuple[Callable[[str], Callable[[LoadRequest], Engine]], list[str]],
) -> None:
    engine_of, opened = counted
    loaders = [
        Loader(Settings(model="wordllama", directory=models_directory, dimensions=width), engine_of=engine_of)
        for width in (None, 64)
    ]
    assert [loader.get().dimension for loader in loaders] == [256, 64]
    assert len(opened) == 2
    for loader in loaders:
        loader.close()


def test_two_banks_load_a_model_once(wordllama_files: Path, tmp_path: Path) -> None:
    with (
        embank.open(tmp_path / "a.bank", model="wordllama") as one,
        embank.open(tmp_path / "b.bank", model="wordllama") as other,
    ):
        one.collection("notes").add(["rivers carry silt"])
        other.collection("notes").add(["rivers carry silt"])
    with embank.open(tmp_path / "b.bank", model="wordllama") as again:
        assert again.collection("notes").search("silt", k=1)[0].text == "rivers carry silt"


def test_a_failed_opening_is_told_to_all_who_wait_and_tried_anew(counted: object) -> None:
    shared = SharedEngines()
    gate, begun = threading.Event(), threading.Event()

    def fail() -> Engine:
        begun.set()
        gate.wait(10)
        raise ModelFileError("damaged")

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(shared.get, "key", fail) for _ in range(4)]
        assert begun.wait(10)
        gate.set()
        for each in asked:
            with pytest.raises(ModelFileError, match="damaged"):
                each.result()
    with pytest.raises(ModelFileError, match="other"):
        shared.get("key", _raises_other)


def _raises_other() -> Engine:
    raise ModelFileError("other")


def test_a_handle_that_was_closed_says_so(loader: Loader, wordllama_files: Path) -> None:
    shared = SharedEngines()
    model = loader.get("wordllama")
    assert isinstance(model, ResidentModel)
    with model._using() as engine:
        handle = shared.get("key", lambda: engine)
        second = shared.get("key", lambda: engine)
        handle.close()
        handle.close()
        with pytest.raises(EmbeddingFailed, match="closed"):
            handle.encode(["rivers"], "query")
        assert handle.used_bytes() == 0
        assert second.encode(["rivers"], "query").rows

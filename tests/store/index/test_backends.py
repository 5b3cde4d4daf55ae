"""Every kind of index behind the shipped contract, over whole banks; one of a third party, too."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.store.index.conftest import Opener, add, found
from tests.test_registry import install

from embank.errors import IndexUnavailable
from embank.events.kinds import IndexFailed
from embank.events.stream import Stream
from embank.store.index import faiss
from embank.store.index.backend import Backend, Home
from embank.store.index.protocol import Float32, Mask, Read, Slots, Write
from embank.store.index.settings import Settings
from embank.store.metric import Metric
from embank.testing.backends import BackendContract
from embank.testing.indexes import clustered

_FAISS = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")


@_FAISS
class TestFlat(BackendContract):
    settings: ClassVar = {"kind": "flat"}


@_FAISS
class TestScalar(BackendContract):
    settings: ClassVar = {"kind": "sq8"}


@_FAISS
class TestProduct(BackendContract):
    # Few bits: k-means over hundreds of centroids takes longer than all else here.
    settings: ClassVar = {"kind": "pq", "bits": 5}


@_FAISS
class TestFastScan(BackendContract):
    settings: ClassVar = {"kind": "pq-fastscan"}


@_FAISS
class TestRaBitQ(BackendContract):
    settings: ClassVar = {"kind": "rabitq"}


@_FAISS
class TestLists(BackendContract):
    settings: ClassVar = {"kind": "ivf", "lists": 16, "probes": 12}


@_FAISS
class TestGraph(BackendContract):
    settings: ClassVar = {"kind": "hnsw"}


# --- a third party's, in numpy ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Way:
    dimension: int
    kind: str = "signs"
    name: str = "signs + 400"
    grows: bool = True
    rescored: int = 400
    exhaustive: bool = True
    least_rows: int = 1
    wanted_rows: int = 1

    def held_bytes(self, rows: int) -> int:
        return rows * self.dimension

    def saving_bytes(self, rows: int) -> int:
        return rows

    def check_rows(self, rows: int) -> None:
        pass

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Signs:
    """One bit a component, kept as a file of numpy's in the folder."""

    takes_filters = True

    def __init__(self, method: _Way, home: Home, signs: Any) -> None:
        self.method, self._home, self._signs = method, home, signs

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def rows(self) -> int:
        return len(self._signs)

    def used_bytes(self) -> int:
        return int(self._signs.nbytes)

    def add(self, vectors: Float32) -> None:
        self._signs = np.concatenate((self._signs, np.sign(vectors).astype(np.int8)))

    def candidates(self, query: Float32, count: int, *, allowed: Mask | None = None) -> Slots:
        if not self._home.folder.exists():
            raise IndexUnavailable("the folder of signs is gone")
        agreeing = self._signs.astype(np.float32) @ query
        if allowed is not None:
            agreeing[~allowed] = -np.inf
        best: Slots = np.argsort(-agreeing)[: min(count, int(np.isfinite(agreeing).sum()))]
        return best

    def error(self, vectors: Float32) -> float | None:
        return None

    def save(self, write: Write) -> None:
        self._home.folder.mkdir(parents=True, exist_ok=True)
        np.save(self._home.folder / "signs.npy", self._signs)
        write(json.dumps({"rows": self.rows}).encode())


class _SignsBackend(Backend[_Way]):
    def require(self, settings: Settings) -> None:
        pass

    def way(self, settings: Settings, kind: str, dimension: int, rows: int, metric: Metric) -> _Way:
        return _Way(dimension)

    def read_way(self, values: dict[str, Any]) -> _Way:
        return _Way(**values)

    def make(self, way: _Way, sample: Float32, home: Home) -> _Signs:
        home.folder.mkdir(parents=True, exist_ok=True)
        return _Signs(way, home, np.empty((0, way.dimension), np.int8))

    def load(self, way: _Way, read: Read, home: Home) -> _Signs:
        return _Signs(way, home, np.load(home.folder / "signs.npy")[: json.loads(read(100))["rows"]])


BACKEND = _SignsBackend()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "signs", "embank.indexes", "signs", f"{__name__}:BACKEND")
    monkeypatch.syspath_prepend(site)


@pytest.mark.usefixtures("installed")
class TestOfAThirdParty(BackendContract):
    settings: ClassVar = {"kind": "signs"}


@pytest.mark.usefixtures("installed")
def test_codes_that_fail_are_told_once_and_scanned_around(bank: Opener, tmp_path: Path) -> None:
    vectors = clustered(1_000, seed=181)
    stream = Stream()
    inbox = stream.subscribe(kinds=(IndexFailed,))
    collection = bank(kind="signs", stream=stream)
    add(collection, vectors)
    collection.index.refresh()
    next((tmp_path / "bank").glob("views/*/index")).rename(tmp_path / "elsewhere")
    for number in range(3):
        assert found(collection, vectors[number], 1)[0] == [f"d{number}"]
    status = collection.index.status()
    assert status is not None
    assert (status.loaded, status.reason) == (False, "the folder of signs is gone")
    assert [each.index for each in inbox.drain() if isinstance(each, IndexFailed)] == ["signs + 400"]


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"there are auto, exact, flat, .*lancedb"):
        Settings(kind="flatt")


@_FAISS
def test_naming_another_kind_rebuilds(bank: Opener) -> None:
    collection = bank(kind="flat")
    add(collection, clustered(1_000, seed=182))
    collection.index.refresh()
    bank.close()
    again = bank(kind="hnsw")
    status = again.index.refresh()
    assert status is not None
    assert (status.method or "").startswith("HNSW32")

"""Collections of made-up vectors, large enough for an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.events.stream import Stream
from embank.records import Chunk, Document
from embank.store.collection import StoredCollection
from embank.store.index.settings import Settings as IndexSettings
from embank.store.local import LocalStore
from embank.store.protocol import Batch, Space, Upsert
from embank.store.settings import Settings
from embank.system.files import Files
from embank.testing.indexes import DIMENSION, Float32, clustered

SPACE = Space("user:made-up:48", DIMENSION, None)
ROWS = 5_000


def add(collection: StoredCollection, vectors: Float32, *, first: int = 0) -> None:
    """One document a vector; those with an even number are `{"even": true}`."""
    upserts = []
    for number in range(first, first + len(vectors)):
        text = f"d{number}"
        document = Document(text, text, {"even": number % 2 == 0})
        upserts.append(Upsert(document, text.encode(), [Chunk(text, 0, len(text))]))
    collection.commit(Batch(None, upserts, vectors), SPACE)


def found(collection: StoredCollection, query: Float32, k: int = 10, **how: Any) -> tuple[list[str], Float32]:
    """Ids and scores of the nearest."""
    with collection.snapshot(lexical=False, **how) as snapshot:
        nearest = snapshot.dense(query, k)
        return [passage.id for passage in snapshot.passages(nearest.slots)], nearest.scores


def exact(vectors: Float32, query: Float32, alive: Any = None, k: int = 10) -> Float32:
    """The `k` best scores."""
    scores = vectors.astype(np.float16).astype(np.float32) @ query
    return np.sort(scores if alive is None else scores[alive])[::-1][:k]


@pytest.fixture(scope="session")
def vectors() -> Float32:
    return clustered(ROWS, seed=50)


class Opener:
    """Opens the collection `c` of a bank; keyword arguments but those of a store are settings of the index."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: list[LocalStore] = []

    def __call__(
        self,
        *,
        read_only: bool = False,
        governor: Any = None,
        files: Files | None = None,
        ask: Any = None,
        **settings: Any,
    ) -> StoredCollection:
        store = LocalStore(
            self._root,
            read_only=read_only,
            settings=Settings(),
            index=IndexSettings(**{"kind": "pq-fastscan", "tail_rows": 500, **settings}),
            stream=Stream(),
            governor=governor,
            files=files,
            ask=ask,
        )
        self._opened.append(store)
        return store.collection("c")

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Opener]:
    """Opens the bank `tmp_path/bank`; what a test leaves open is closed behind it."""
    opener = Opener(tmp_path / "bank")
    yield opener
    opener.close()

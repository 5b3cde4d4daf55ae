"""Stores on temporary directories, and documents with made-up vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.events.stream import Stream
from embank.records import Chunk, Document
from embank.store.collection import StoredCollection
from embank.store.local import LocalStore
from embank.store.protocol import Batch, Space, Upsert
from embank.store.settings import Settings
from embank.system.files import Files
from embank.testing.fakes import HashModel

MODEL = HashModel()
SPACE = Space(MODEL.fingerprint, MODEL.dimension, None)

OpenStore = Callable[..., LocalStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the bank `tmp_path/bank`; every store that a test opens is closed behind it."""
    opened: list[LocalStore] = []

    def open_it(
        *,
        read_only: bool = False,
        files: Files | None = None,
        lexical_rows: int = 4096,
        stream: Stream | None = None,
        settings: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> LocalStore:
        store = LocalStore(
            tmp_path / "bank",
            read_only=read_only,
            settings=Settings(lexical_rows=lexical_rows, **(settings or {})),
            stream=stream or Stream(),
            files=files,
            **more,
        )
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        store.close()


def write(collection: StoredCollection, texts: dict[str, str], *, root: str | None = None) -> int:
    """Commit one document a text, one chunk each, with the vectors of `MODEL`; return the sequence."""
    upserts = [
        Upsert(Document(name, text, {"length": len(text)}, origin=name), text.encode(), [Chunk(text, 0, len(text))])
        for name, text in texts.items()
    ]
    return collection.commit(Batch(root, upserts, MODEL.embed(list(texts.values()))), SPACE)


def words(collection: StoredCollection, text: str, k: int = 10) -> list[str]:
    """Ids of the best passages by words."""
    with collection.snapshot() as snapshot:
        return [passage.id for passage in snapshot.passages(snapshot.lexical(text, k).slots)]


def nearest(collection: StoredCollection, text: str, k: int = 10) -> list[str]:
    """Ids of the nearest passages."""
    with collection.snapshot(lexical=False) as snapshot:
        found = snapshot.dense(np.asarray(MODEL.embed([text])[0]), k)
        return [passage.id for passage in snapshot.passages(found.slots)]

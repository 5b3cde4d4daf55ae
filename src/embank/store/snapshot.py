"""One state of a collection, to be searched: documents, vectors, tombstones and words of the same sequence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from embank.errors import StoreError
from embank.store import contents, documents
from embank.store.collections import Row
from embank.store.contents import Content
from embank.store.generation import Epoch
from embank.store.index.exact import ExactIndex
from embank.store.index.protocol import Float32, Index, Mask, Neighbors, Slots
from embank.store.protocol import Passage
from embank.store.views import Picture


class Snapshot:
    """One state of a collection, while the block that made it lasts. For one thread."""

    def __init__(
        self,
        row: Row,
        connection: sqlite3.Connection,
        epoch: Epoch,
        picture: Picture | None,
        *,
        allowed: Mask | None,
        index: Callable[[], Index | None],
    ) -> None:
        self.info = row.info
        self.degraded = picture is not None and picture.degraded
        self._row = row
        self._connection = connection
        self._rows = epoch.rows
        self._picture = picture
        self._allowed = allowed
        self._index = index

    def dense(self, query: Float32, k: int) -> Neighbors:
        """The `k` nearest live chunks by cosine; `query` is float32, normalised, shape (dimension,)."""
        if self._rows is None:
            return _NONE
        index = self._index() or ExactIndex(self._rows)
        return index.search(query, k, allowed=self._allowed)

    def lexical(self, text: str, k: int) -> Neighbors:
        """The `k` best live chunks by BM25."""
        if self._picture is None:
            return _NONE
        return self._picture.search(text, k, allowed=self._allowed, below=self._row.slots)

    def similarity(self, query: Float32, slots: Slots) -> Float32:
        """Cosine of `query` with each of `slots`."""
        if self._rows is None or not len(slots):
            return _NONE.scores
        return self._rows.products(slots, query)

    def live_slots(self) -> Slots:
        """The slots of all passages there are (of those the filter allows), ascending."""
        if self._rows is None:
            return _NONE.slots
        return np.arange(len(self._rows)) if self._allowed is None else np.flatnonzero(self._allowed)

    def vectors(self, slots: Slots) -> Float32:
        """The vectors of `slots` as they are stored, float32, shape (len(slots), dimension), in that order."""
        if self._rows is None:
            raise StoreError(f"collection {self.info.name!r} has no vectors yet")
        return self._rows.gather(slots)

    def contents_of(self, ids: Iterable[str]) -> dict[str, Content]:
        """The documents of `ids` that exist, with their passages and slots."""
        return contents.of_ids(self._connection, self._row, ids)

    def contents_behind(self, after: str | None) -> Iterator[Content]:
        """The documents behind the id `after` in the order of ids, with their passages and slots."""
        return contents.behind(self._connection, self._row, after)

    def owners(self, slots: Slots) -> dict[int, int]:
        """A number for the document of each slot."""
        return documents.owners(self._connection, self._row, slots.tolist())

    def passages(self, slots: Slots) -> list[Passage]:
        """The chunks at `slots`, in that order."""
        return documents.passages(self._connection, self._row, slots.tolist())


_NONE = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))

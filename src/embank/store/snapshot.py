"""One state of a collection, to be searched: documents, vectors, tombstones and words of the same sequence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from embank.errors import StoreError
from embank.store import chunks, contents, wording
from embank.store.codec import Codec, Stored
from embank.store.collections import Row
from embank.store.contents import Content
from embank.store.generation import Epoch
from embank.store.index.exact import ExactIndex
from embank.store.index.protocol import Float32, Index, Mask, Neighbors, Slots
from embank.store.index.rescored import RescoredIndex
from embank.store.predicate import Predicate
from embank.store.protocol import Passage
from embank.store.views import Picture
from embank.store.words import Language, Words


@dataclass(frozen=True, slots=True)
class Means:
    """What answers a dense search: an index by its name, `exact` for a scan of everything, or the `hot` tier.

    Of the `rows` vectors, the `tail_rows` last are not in the index yet and were scanned.
    """

    index: str
    rows: int
    tail_rows: int


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
        hot: Callable[[Float32, int], Neighbors | None] | None = None,
    ) -> None:
        """`hot` answers in place of an index that is missing, where it may and can."""
        self.row = row
        self.info = row.info
        self._hot = hot
        self._from_hot = False
        self._searched: Index | None = None
        self._connection = connection
        self._rows = epoch.rows
        self._picture = picture
        self._allowed = allowed
        self._index = index

    @property
    def degraded(self) -> bool:
        """Whether what was found last lacks something: of the newest words, or of all that is not read often."""
        return self._from_hot or (self._picture is not None and self._picture.degraded)

    def dense(self, query: Float32, k: int) -> Neighbors:
        """The `k` nearest live chunks by the collection's metric; `query` is float32, shape (dimension,).

        For cosine it has length 1. Those of the hot tier alone, where it stands in for an index: then what was found is
        `degraded`.
        """
        if self._rows is None:
            return _NONE
        index = self._index()
        hot = self._hot(query, k) if index is None and self._hot is not None else None
        self._from_hot = hot is not None
        if hot is not None:
            return hot
        self._searched = index or ExactIndex(self._rows)
        return self._searched.search(query, k, allowed=self._allowed)

    @property
    def means(self) -> Means | None:
        """What answered the last `dense`; `None` before."""
        if self._rows is None or (self._searched is None and not self._from_hot):
            return None
        tail = self._searched.tail_rows if isinstance(self._searched, RescoredIndex) else 0
        name = "hot" if self._from_hot or self._searched is None else self._searched.name
        return Means(name, len(self._rows), tail)

    @property
    def open_slots(self) -> int:
        """How many passages may be found at all: those that the filter and the tombstones leave."""
        return self.row.slots if self._allowed is None else int(np.count_nonzero(self._allowed))

    @property
    def language(self) -> Language:
        """What its words are recorded to be cut by."""
        return wording.language(self._connection, self.row.key)

    @property
    def words(self) -> Words | None:
        """What texts are cut into words by; `None` where words are not searched."""
        return None if self._picture is None else self._picture.words

    def frequency(self, word: str) -> int:
        """In how many passages a word stands, in the index's form; those deleted of late may still count."""
        return 0 if self._picture is None else self._picture.frequency(word)

    def lexical(self, text: str, k: int) -> Neighbors:
        """The `k` best live chunks by BM25."""
        if self._picture is None:
            return _NONE
        return self._picture.search(text, k, allowed=self._allowed, below=self.row.slots)

    def terms(self, text: str) -> tuple[list[tuple[str, int]], int]:
        """The words of `text`, each with the number of passages that have it; and the number of all passages."""
        return ([], 0) if self._picture is None else self._picture.terms(text)

    def similarity(self, query: Float32, slots: Slots) -> Float32:
        """The score of each of `slots` by the collection's metric."""
        if self._rows is None or not len(slots):
            return _NONE.scores
        return self._rows.scores(slots, query)

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

    @property
    def codec(self) -> Codec | None:
        """How the vectors are stored; `None` before the first."""
        return None if self._rows is None else self._rows.codec

    def records(self, slots: Slots) -> Stored:
        """Copies of the records of `slots` as they are stored, in that order."""
        if self._rows is None:
            raise StoreError(f"collection {self.info.name!r} has no vectors yet")
        return self._rows.records(slots)

    def slots_of(self, ids: Iterable[str]) -> dict[str, list[int]]:
        """The slots of the passages of those of `ids` that exist, filtered or not."""
        return chunks.slots_of(self._connection, self.row, ids)

    def contents_of(self, ids: Iterable[str]) -> dict[str, Content]:
        """The documents of `ids` that exist, with their passages and slots."""
        return contents.of_ids(self._connection, self.row, ids)

    def contents_behind(self, after: str | None, *, where: Predicate | None = None) -> Iterator[Content]:
        """The documents behind the id `after` that match, in the order of ids, with their passages and slots."""
        return contents.behind(self._connection, self.row, after, where=where)

    def owners(self, slots: Slots) -> dict[int, int]:
        """A number for the document of each slot."""
        return chunks.owners(self._connection, self.row, slots.tolist())

    def names(self, slots: Slots) -> dict[int, str]:
        """The id of the document of each slot."""
        return chunks.names_of_slots(self._connection, self.row, slots.tolist())

    def passages(self, slots: Slots, *, around: int = 0) -> list[Passage]:
        """The chunks at `slots`, in that order, with the text of `around` further ones on both sides."""
        return chunks.passages(self._connection, self.row, slots.tolist(), around=around)


_NONE = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))

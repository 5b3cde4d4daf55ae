"""The lexical view of a collection, kept in step with the truth.

The writing process brings the index on disk up to date: before a search that would miss something, and every so many
rows. A reading process may not write it; it searches the index as the writer left it, plus a small one in memory of
the passages past its marker. Both hand out a `Picture`: an immutable state to search, and the sequence it stands for.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from embank.errors import StoreError
from embank.events.kinds import ViewCaughtUp
from embank.events.stream import Stream
from embank.store import documents, generations
from embank.store.collections import Row
from embank.store.database import meaning
from embank.store.index.protocol import Mask, Neighbors
from embank.store.lexical import WRITER_RESIDENT_BYTES, LexicalIndex, LexicalSearcher, Mark
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.sqlite import Readers

_log = get_logger(__name__)

_OS_ERROR = re.compile(r"os error (\d+)")

MAX_TAIL_ROWS = 16_384
"""Passages a reading process indexes in memory; the writer leaves far fewer. Beyond it, answers are degraded."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The passages as of `sequence`. Tombstones up to it are the caller's to mask."""

    sequence: int
    searchers: tuple[LexicalSearcher, ...]
    degraded: bool = False

    def search(self, text: str, k: int, *, allowed: Mask | None, below: int) -> Neighbors:
        """The `k` best by BM25. Scores of passages not yet in the index on disk rest on their own statistics."""
        answers = [searcher.search(text, k, allowed=allowed, below=below) for searcher in self.searchers]
        if len(answers) == 1:
            return answers[0]
        slots = np.concatenate([answer.slots for answer in answers])
        scores = np.concatenate([answer.scores for answer in answers])
        order = np.lexsort((slots, -scores))[:k]
        return Neighbors(slots[order], scores[order])

    def terms(self, text: str) -> tuple[list[tuple[str, int]], int]:
        """The words of `text`, each with the number of passages that have it; and the number of all there are."""
        words = [searcher.terms(text) for searcher in self.searchers]
        passages = sum(max(searcher.documents - 1, 0) for searcher in self.searchers)  # one is the marker
        counted = [(same[0][0], sum(count for _, count in same)) for same in zip(*words, strict=True)]
        return counted, passages


class LexicalView(Protocol):
    """Either side's view."""

    def picture(self, row: Row, connection: sqlite3.Connection) -> Picture:
        """A state that holds at least what `row`, read from `connection`, recorded; it may be of a later sequence.

        Of an earlier one only where the generation of `row` was retired before the view had come so far.
        """
        ...

    def lag_rows(self, row: Row) -> int:
        """Vectors appended since the view was last brought up to date."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ViewPlace:
    """Where a view lies and which truth it is derived from (`name` changes with every generation)."""

    path: Path
    name: str
    collection: int
    generation: int
    collection_name: str


class WriterView:
    """The index on disk, written by this process. Thread-safe; also a memory consumer: the writer's heap."""

    def __init__(
        self,
        place: ViewPlace,
        readers: Readers,
        *,
        files: Files,
        clock: Clock,
        stream: Stream,
        step_rows: int,
        writer_bytes: int,
    ) -> None:
        self._place = place
        self._readers = readers
        self._files = files
        self._clock = clock
        self._stream = stream
        self._step_rows = step_rows
        self._writer_bytes = writer_bytes
        self._lock = threading.RLock()
        # The sequence whose removals are applied; ahead of the mark while a catch-up is between two steps.
        self._removed_through = 0
        self._index, self._mark = self._open()

    @property
    def name(self) -> str:
        return f"lexical writer {self._place.collection_name}"

    def used_bytes(self) -> int:
        return WRITER_RESIDENT_BYTES if self._index.writing else 0

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 -- it holds one heap, all or nothing
        # A writer at work is not to be waited for: whoever asks may hold what it waits for.
        if not self._lock.acquire(blocking=False):
            return 0
        try:
            held = self.used_bytes()
            self._index.close_writer()
        finally:
            self._lock.release()
        return held

    def rebuild_cost(self) -> float:
        return 0.0005  # opening a writer takes about 10 ms for its 20 MB

    def lag_rows(self, row: Row) -> int:
        return row.slots - self._mark.slots

    def picture(self, row: Row, connection: sqlite3.Connection) -> Picture:
        with self._lock:
            if self._mark.slots > row.slots and self._mark.sequence < row.sequence:
                self.catch_up()  # it was cut short on its way to a later state
            else:
                self._reach(row, connection)
            return Picture(self._mark.sequence, (self._index.searcher(),))

    def catch_up(self) -> None:
        """Bring the index to the present; that of a retired generation stays as it is."""
        with self._lock, self._readers.read() as connection:
            row = generations.row_of(connection, self._place.collection, self._place.generation)
            if row is not None:
                self._reach(row, connection)

    def close(self) -> None:
        """Close the writer. What the view lags behind is applied when it is next needed."""
        with self._lock:
            self._index.close_writer()

    def _reach(self, row: Row, connection: sqlite3.Connection) -> None:
        """Bring the index to the state of `row` and no further: who writes on must not keep a search waiting.

        Damaged files are thrown away and built again from the truth.
        """
        try:
            self._advance(row, connection)
        except ValueError as error:  # all that tantivy raises
            self._drop_writer()
            self._raise_if_of_the_disk(error)
            _log.warning("lexical view of %r is damaged (%s): rebuilding", self._place.collection_name, error)
            try:
                self._index, self._mark = self._recreate()
                self._removed_through = 0
                self._advance(row, connection)
            except ValueError as again:
                self._drop_writer()
                self._raise_if_of_the_disk(again)
                raise StoreError(
                    f"the lexical view of {self._place.collection_name!r} can't be built ({again}): all documents are "
                    f"safe, and searches by vectors (mode dense) go on",
                    collection=self._place.collection_name,
                ) from again

    def _raise_if_of_the_disk(self, error: ValueError) -> None:
        number = _OS_ERROR.search(str(error))
        kept = f"the lexical view of {self._place.collection_name!r} lags behind, all documents are safe"
        meant = meaning(int(number[1]), error, self._place.path, kept) if number else None
        if meant is not None:
            raise meant from error

    def _advance(self, row: Row, connection: sqlite3.Connection) -> None:
        started, rows = self._clock.monotonic(), 0
        while self._mark.sequence < row.sequence or self._mark.slots < row.slots:
            rows += self._step(connection, row)
        if rows:
            seconds = self._clock.monotonic() - started
            self._stream.publish(
                ViewCaughtUp(
                    collection=self._place.collection_name,
                    view="lexical",
                    sequence=self._mark.sequence,
                    rows=rows,
                    seconds=seconds,
                )
            )

    def _step(self, connection: sqlite3.Connection, row: Row) -> int:
        mark = self._mark
        removed = documents.buried_slots(connection, row, after=max(mark.sequence, self._removed_through))
        removed = removed[removed < mark.slots]
        behind = documents.slot_behind(connection, row, first_slot=mark.slots, rows=self._step_rows)
        below = row.slots if behind is None else behind
        # Only the last step may claim the sequence: until then some of its passages are missing.
        moved = Mark(mark.view, row.sequence if behind is None else mark.sequence, below)
        count = 0
        if len(removed) or below > mark.slots:
            added = documents.texts(connection, row, first_slot=mark.slots, below=below)
            count = self._index.apply(removed=removed, added=added, mark=moved)
        self._mark = moved
        self._removed_through = row.sequence
        return count + len(removed)

    def _open(self) -> tuple[LexicalIndex, Mark]:
        try:
            self._files.make_directory(self._place.path)
            index = LexicalIndex(self._place.path, writer_bytes=self._writer_bytes)
            searcher = index.searcher()
            mark = searcher.mark(self._place.name)
        except ValueError as error:
            _log.warning("lexical view of %r can't be opened (%s): rebuilding", self._place.collection_name, error)
            return self._recreate()
        if mark.slots == 0 and searcher.documents:  # of another truth
            return self._recreate()
        return index, mark

    def _recreate(self) -> tuple[LexicalIndex, Mark]:
        self._files.remove_tree(self._place.path)
        self._files.make_directory(self._place.path)
        return LexicalIndex(self._place.path, writer_bytes=self._writer_bytes), Mark(self._place.name)

    def _drop_writer(self) -> None:
        try:
            self._index.close_writer()
        except ValueError as error:
            _log.warning("the lexical writer of %r ended badly: %s", self._place.collection_name, error)


@dataclass(frozen=True, slots=True)
class Tail:
    """Passages [first, below) in memory, as they stood at `sequence`."""

    index: LexicalIndex
    first: int
    below: int
    sequence: int


class ReaderView:
    """The index as another process left it, and the passages past its marker in memory. Thread-safe."""

    def __init__(self, place: ViewPlace, *, writer_bytes: int) -> None:
        self._place = place
        self._writer_bytes = writer_bytes
        self._lock = threading.Lock()
        self._base: LexicalIndex | None = None
        self._tail = self._empty_tail(0)

    def lag_rows(self, row: Row) -> int:  # noqa: ARG002 -- nothing for this side to bring up to date
        return 0

    def picture(self, row: Row, connection: sqlite3.Connection) -> Picture:
        with self._lock:
            searchers, mark = self._look()
            if mark.sequence > row.sequence or mark.slots >= row.slots:
                return Picture(max(mark.sequence, row.sequence), searchers)
            self._extend_tail(mark.slots, row, connection)
            degraded = self._tail.below < row.slots
            # Another thread may have extended the tail from a later state, where rows of this one were gone.
            return Picture(max(row.sequence, self._tail.sequence), (*searchers, self._tail.index.searcher()), degraded)

    def close(self) -> None:
        with self._lock:
            self._base, self._tail = None, self._empty_tail(0)

    def _look(self) -> tuple[tuple[LexicalSearcher, ...], Mark]:
        try:
            if self._base is None and LexicalIndex.exists(self._place.path):
                self._base = LexicalIndex(self._place.path, writer_bytes=self._writer_bytes)
            if self._base is None:
                return (), Mark(self._place.name)
            self._base.reload()
        except ValueError as error:  # damaged, or being rebuilt by the writer this moment
            _log.warning("lexical view of %r can't be read: %s", self._place.collection_name, error)
            self._base = None
            return (), Mark(self._place.name)
        searcher = self._base.searcher()
        mark = searcher.mark(self._place.name)
        return ((searcher,) if mark.slots else ()), mark

    def _extend_tail(self, first: int, row: Row, connection: sqlite3.Connection) -> None:
        if self._tail.first != first or self._tail.below < first:
            self._tail = self._empty_tail(first)
        start, stop = self._tail.below, min(row.slots, first + MAX_TAIL_ROWS)
        if start < stop:
            added = documents.texts(connection, row, first_slot=start, below=stop)
            self._tail.index.apply(removed=(), added=added, mark=Mark(self._place.name, row.sequence, stop))
            self._tail.index.close_writer()
            self._tail = Tail(self._tail.index, first, stop, row.sequence)

    def _empty_tail(self, first: int) -> Tail:
        return Tail(LexicalIndex(None, writer_bytes=self._writer_bytes), first, first, 0)

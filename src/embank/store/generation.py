"""The files of one generation of a collection while they are open: its vectors, and the views over them."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from embank.errors import StoreError
from embank.memory.governor import Registration
from embank.store import checksums, chunks, predicate
from embank.store.codec import Stored
from embank.store.collections import Row
from embank.store.columns import Columns
from embank.store.index.protocol import Float32, Index, Mask
from embank.store.index.view import VectorView
from embank.store.shared import Shared
from embank.store.vectors import Rows, Segments
from embank.store.views import LexicalView
from embank.store.where import Condition


@dataclass(frozen=True, slots=True)
class Epoch:
    """The vectors and tombstones as of `sequence`; never changed, only replaced."""

    sequence: int
    rows: Rows | None
    dead: Mask | None


class Generation:
    """Opened piece by piece, as it is needed. Thread-safe. `row` is always one that was read for this generation.

    `users` counts who works with it; it is the owner's to change.
    """

    def __init__(self, shared: Shared) -> None:
        self.users = 0
        self._shared = shared
        self._guard = threading.RLock()
        self._segments: Segments | None = None
        self._view: LexicalView | None = None
        self._vector_view: VectorView | None = None
        self._registrations: list[Registration] = []
        self._epoch = Epoch(0, None, None)
        self._columns: Columns | None = None

    def append(self, row: Row, vectors: Float32) -> list[int]:
        """Write `vectors` behind the mark of `row`, durably; the checksums of their records. One writer at a time."""
        return self.append_records(row, self._opened(row).codec.encode(vectors))

    def append_records(self, row: Row, records: Stored) -> list[int]:
        """The same for vectors as another generation of the same codec stores them."""
        segments = self._opened(row)
        sums = checksums.of_records(records)
        segments.append_records(records, mark=row.slots)
        segments.sync()
        return sums

    def rows(self, row: Row) -> Rows:
        """All vectors below the mark of `row`, buried or not."""
        with self._guard:
            return self._opened(row).rows(row.slots)

    def epoch(self, connection: sqlite3.Connection, row: Row) -> Epoch:
        """Vectors and tombstones as `row` has them, or as a later state of the same generation."""
        with self._guard:
            old = self._epoch
            if old.sequence >= row.sequence or row.info.dimension is None:
                return old
            segments = self._opened(row)
            buried = chunks.buried_slots(connection, row, after=old.sequence)
            dead = old.dead
            if len(buried) or dead is not None:
                dead = np.zeros(row.slots, np.bool_)
                if old.dead is not None:
                    dead[: len(old.dead)] = old.dead
                dead[buried] = True
            self._epoch = Epoch(row.sequence, segments.rows(row.slots), dead)
            return self._epoch

    def matching(self, connection: sqlite3.Connection, row: Row, epoch: Epoch, condition: Condition) -> Mask:
        """Of which slots a filter is true, shape (row.slots,); of none that is dead."""
        with self._guard:
            if self._columns is None:
                self._columns = self._shared.filter_columns(row)
        found = self._columns.mask(connection, row, condition)
        if found is None:
            found = np.zeros(row.slots, np.bool_)
            found[chunks.matching_slots(connection, row, predicate.of(condition))] = True
        elif epoch.dead is not None:
            found &= ~epoch.dead[: row.slots]
        return found

    def view(self, row: Row) -> LexicalView:
        """The lexical view, opened where it is not."""
        with self._guard:
            if self._view is None:
                self._view = self._shared.lexical_view(row)
                self._register(self._view)
            return self._view

    def index(self, row: Row, epoch: Epoch) -> Index | None:
        """What to search the vectors of `epoch` with; `None` where they are to be scanned."""
        return None if epoch.rows is None else self.vector_view(row).index(row, epoch.rows)

    def vector_view(self, row: Row) -> VectorView:
        """The vector index, opened where it is not."""
        with self._guard:
            if self._vector_view is None:
                self._vector_view = self._shared.vector_view(row, self._vectors)
                self._register(self._vector_view)
            return self._vector_view

    def open_view(self) -> LexicalView | None:
        """The lexical view where one is open."""
        return self._view

    def close(self) -> None:
        """Close files and the view's writer. Mappings live until the last snapshot that uses them is gone."""
        index = self._vector_view
        if index is not None:  # with nothing locked: it may be building, for which it asks for an epoch
            index.close()
        with self._guard:
            for registration in self._registrations:
                registration.close()
            if self._view is not None:
                self._view.close()
            if self._segments is not None:
                self._segments.close()
            if self._columns is not None:
                self._columns.close()
            self._view, self._vector_view, self._registrations = None, None, []
            self._segments, self._epoch = None, Epoch(0, None, None)

    def _opened(self, row: Row) -> Segments:
        with self._guard:
            if self._segments is None:
                self._segments = self._shared.segments(row)
            return self._segments

    def _register(self, view: LexicalView | VectorView) -> None:
        registration = self._shared.register(view)
        if registration is not None:
            self._registrations.append(registration)

    def _vectors(self, connection: sqlite3.Connection, row: Row) -> tuple[Rows | None, Mask | None]:
        epoch = self.epoch(connection, row)
        return epoch.rows, epoch.dead


_Number = tuple[int, int]
"""The collection's own number and that of a generation. Later ones are greater, also where the collection was dropped
and made anew by another process."""

_END = (sys.maxsize, 0)


class OpenGenerations:
    """The generations of the collection of a name that are open in this process. Thread-safe.

    Nobody is kept waiting: who works with a generation that was replaced finishes, and the last one closes it.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._guard = threading.Condition(threading.Lock())
        self._open: dict[_Number, Generation] = {}
        self._latest: _Number = (0, 0)
        self._closing = 0

    def enter(self, row: Row, *, in_use: bool = True) -> Generation | None:
        """The generation of `row`, to be left again; `None` when it was replaced and closed: then read the row anew.

        `in_use` says that it is the collection's own, not one that is being filled.
        """
        number = _number(row)
        with self._guard:
            if in_use:
                self._latest = max(self._latest, number)
            generation = self._open.get(number)
            if generation is None:
                if number < self._latest:
                    return None
                generation = self._open[number] = Generation(self._shared)
            generation.users += 1
            return generation

    def leave(self, generation: Generation) -> None:
        """End what `enter` began."""
        with self._guard:
            generation.users -= 1
            done = [number for number, each in self._open.items() if number < self._latest and not each.users]
            closing = [self._open.pop(number) for number in done]
            self._closing += len(closing)
        self._close(closing)

    @contextmanager
    def using(self, row: Row, *, in_use: bool = True) -> Iterator[Generation]:
        """The generation of a row that can't be replaced meanwhile, since the caller alone could do that."""
        generation = self.enter(row, in_use=in_use)
        if generation is None:
            raise StoreError(f"generation {row.info.generation} of {row.info.name!r} is closed")
        try:
            yield generation
        finally:
            self.leave(generation)

    def put_in_use(self, row: Row) -> None:
        """Generations before that of `row` are replaced; nobody enters one of them that is closed."""
        with self._guard:
            self._latest = max(self._latest, _number(row))

    def end(self, *, wait_s: float) -> bool:
        """The collection is no more: close every generation once nobody works with it; whether all are closed by then.

        Nobody enters one that is closed. Who still works with one after `wait_s` closes it when he is done.
        """
        with self._guard:
            self._latest = _END
            closing = [self._open.pop(number) for number, each in list(self._open.items()) if not each.users]
            self._closing += len(closing)
        self._close(closing)
        with self._guard:
            return self._guard.wait_for(lambda: not self._open and not self._closing, wait_s)

    def drop(self, key: int, number: int) -> bool:
        """Close a generation that is to be removed, unless somebody works with it; whether it is closed."""
        with self._guard:
            generation = self._open.get((key, number))
            if generation is not None and generation.users:
                return False
            self._open.pop((key, number), None)
        if generation is not None:
            generation.close()
        return True

    def latest_view(self) -> LexicalView | None:
        """The lexical view of the generation in use, where one is open."""
        with self._guard:
            generation = self._open.get(self._latest)
        return None if generation is None else generation.open_view()

    def close(self) -> None:
        """Close every generation, used or not."""
        with self._guard:
            closing, self._open = list(self._open.values()), {}
            self._closing += len(closing)
        self._close(closing)

    def _close(self, closing: list[Generation]) -> None:
        for each in closing:
            try:
                each.close()
            finally:
                with self._guard:
                    self._closing -= 1
                    self._guard.notify_all()


def _number(row: Row) -> _Number:
    return row.key, row.info.generation

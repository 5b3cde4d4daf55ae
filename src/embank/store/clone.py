"""The copy of a generation without what is dead in it: filled window by window, compared, and put in use.

Slots only grow: so one number says what is copied, and what is written behind it is copied when that comes there. A
deletion buries a passage in both generations (`documents.remove`); one that comes while its window is copied leaves a
tombstone in place of the passage.
"""

from __future__ import annotations

import sqlite3
import zlib

import numpy as np

from embank.errors import StoreError
from embank.store import audit, chunks, collections, generations
from embank.store.collections import Row
from embank.store.database import translated_errors
from embank.store.generation import Generation
from embank.store.generations import Filling
from embank.store.shared import Shared


class Clone:
    """A generation that is copied from the one in use. For one thread.

    `rows` is how many passages a window copies, in one commit: for that long writers wait, but not for its vectors,
    which are written and synchronised before.
    """

    def __init__(self, shared: Shared, at: Filling, *, source: Generation, copy: Generation, rows: int) -> None:
        self._shared = shared
        self._database = shared.database
        self._source = source
        self._copy = copy
        self._rows = rows
        self._key, self._number, self._name = at.row.key, at.row.info.generation, at.row.info.name
        self._next = 0  # all that is alive below this slot is copied
        self._checksum = 0  # of all that was copied, in order
        self._verified = (0, 0)  # so many of the copies were read back, and their checksum

    @property
    def done_slots(self) -> int:
        """All that is alive below this slot of the generation in use is copied."""
        return self._next

    def slots(self) -> int:
        """Slots of the generation in use, now."""
        with self._database.reading() as connection:
            return self._states(connection)[0].slots

    def window(self) -> int:
        """Copy the next passages; how many, none when there are no more."""
        with self._database.reading() as connection:
            row, at = self._states(connection)
            slots = chunks.slots_from(connection, row, first_slot=self._next, limit=self._rows)
            if not len(slots):
                self._next = max(self._next, row.slots)
                return 0
            records = self._source.rows(row).records(slots)
        with translated_errors(self._database.root):
            self._copy.append_records(at.row, records)
        with self._database.transaction() as connection:
            row, at = self._states(connection)
            generations.take_over(connection, row, at, slots, now=self._shared.clock.now())
        self._checksum = zlib.crc32(records.view(np.uint8).data, self._checksum)
        self._next = int(slots[-1]) + 1
        return len(slots)

    def copy_digests(self) -> None:
        """What vectors were made of, where that is kept by generation. Nothing adds to it but a re-embedding."""
        behind: int | None = 0
        while behind is not None:
            with self._database.transaction() as connection:
                row, at = self._states(connection)
                behind = generations.copy_digests(connection, row, at, behind=behind)

    def verify(self) -> None:
        """Read back what was copied since the last time; `StoreError` unless all of it is what was read."""
        with self._database.reading() as connection:
            _, at = self._states(connection)
        first, checksum = self._verified
        rows = self._copy.rows(at.row)
        for start in range(first, len(rows), self._rows):
            records = rows.records(np.arange(start, min(start + self._rows, len(rows))))
            checksum = zlib.crc32(records.view(np.uint8).data, checksum)
        if checksum != self._checksum:
            raise StoreError(
                f"the copied vectors of {self._name!r} differ from those that were read: the disk or the memory of "
                f"this machine is at fault; the collection is as it was",
                collection=self._name,
            )
        self._verified = len(rows), checksum

    def count(self) -> None:
        """Count the passages of both generations in one state; `StoreError` unless they are as many."""
        with self._database.reading() as connection:
            row, at = self._states(connection)
            there = chunks.count_chunks(connection, row, below=self._next)
            copied = chunks.count_chunks(connection, at.row, below=at.row.slots)
        self._compare(copied, there)

    def swap(self) -> tuple[Row, Row]:
        """Put it in use, in one transaction and on record, while writers wait; the rows before and after."""
        now = self._shared.clock.now()
        with self._database.transaction() as connection:
            row, at = self._states(connection)
            sequence, swapped = generations.swap(connection, row, at, now=now)
            self._compare(swapped, row.info.chunks)
            audit.record(
                connection,
                "compact",
                self._name,
                at=now,
                sequence=sequence,
                generation=self._number,
                passages=swapped,
                slots_before=row.slots,
                slots_after=at.row.slots,
            )
            new = collections.load(connection, self._key)
        return row, new or at.row

    def catch_up(self, *, lag_rows: int) -> None:
        """Bring its lexical view up to date if it lags by `lag_rows` passages."""
        with self._database.reading() as connection:
            row = generations.row_of(connection, self._key, self._number)
            if row is not None and row.slots:
                view = self._copy.view(row)
                if view.lag_rows(row) >= lag_rows:
                    view.picture(row, connection)

    def refresh_index(self) -> None:
        """Bring its vector index up to date where it is due, as the one in use was planned.

        Raises what `VectorView.refresh` does.
        """
        with self._database.reading() as connection:
            row, at = self._states(connection)
        if at.row.slots:
            index = self._copy.vector_view(at.row)
            index.plans.take(self._source.vector_view(row).plans)
            index.refresh()

    def close_view(self) -> None:
        """Give the heap back that its lexical view was written with; waits for merges under way."""
        view = self._copy.open_view()
        if view is not None:
            view.close()

    def _states(self, connection: sqlite3.Connection) -> tuple[Row, Filling]:
        """The collection's row, and the generation that is being made."""
        row = collections.load(connection, self._key)
        at = None if row is None else generations.filling(connection, row, "compacting")
        if row is None or at is None or at.row.info.generation != self._number:
            raise StoreError(f"the compaction of {self._name!r} was ended elsewhere", collection=self._name)
        return row, at

    def _compare(self, copied: int, there: int) -> None:
        if copied != there:
            raise StoreError(
                f"a compaction of {self._name!r} holds {copied:,} passages where there are {there:,}: it was given "
                f"up, and the collection is as it was",
                collection=self._name,
            )

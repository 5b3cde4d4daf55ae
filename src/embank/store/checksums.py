"""Checksums of passages: a number a vector, kept with the passage's row and committed with it.

It is the CRC-32 of the vector's record as stored, and after it of what the row says: the document, which of its
passages it is, and where in the text it lies. So one changed bit in either is found, and it is known whose it is. It
goes with the passage into every copy of a generation; the slot is no part of it, for that changes there.

The vector is on the disk before the transaction with its checksum is committed, and what no committed row refers to has
none: there is no state after a kill or a power cut in which the two could differ.

Banks of before have none. Older ones and newer read each other: the column is added when a bank is first opened for
writing, and rows that an older Embank writes stay without, as do those it copies, until they are sealed (`seal`).
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from dataclasses import dataclass, field

from embank.store.codec import Stored
from embank.store.collections import Row
from embank.system.sqlite import transaction

_ROW = struct.Struct("<4q")


@dataclass(slots=True)
class Compared:
    """Slots of passages: whose checksum differs, and which have none."""

    differing: list[int] = field(default_factory=list)
    without: list[int] = field(default_factory=list)


def of_records(stored: Stored) -> list[int]:
    """The checksum of each record by itself, before the row is known."""
    size, data = stored.dtype.itemsize, stored.tobytes()  # slices of bytes are made faster than those of arrays
    return [zlib.crc32(data[first : first + size]) for first in range(0, len(data), size)]


def of_passage(record: int, document: int, ordinal: int, start: int, end: int) -> int:
    """A passage's checksum, from that of its record and its row."""
    return zlib.crc32(_ROW.pack(document, ordinal, start, end), record)


def add_column(connection: sqlite3.Connection) -> None:
    """Make room for checksums in a bank of before; outside any transaction. Takes no time, whatever the size."""
    if not has_column(connection):
        with transaction(connection):
            connection.execute("ALTER TABLE chunks ADD COLUMN checksum INTEGER")


def has_column(connection: sqlite3.Connection) -> bool:
    """Whether a bank has room for checksums."""
    found = connection.execute("SELECT 1 FROM pragma_table_info('chunks') WHERE name = 'checksum'").fetchone()
    return found is not None


def compare(connection: sqlite3.Connection, row: Row, stored: Stored, *, first_slot: int) -> Compared:
    """Hold the passages at slots from `first_slot` on against `stored`, their records. Those that are gone are not."""
    rows, sums = _passages(connection, row, stored, first_slot=first_slot)
    found = Compared()
    for (slot, *_, checksum), now in zip(rows, sums, strict=True):
        if checksum != now:
            (found.without if checksum is None else found.differing).append(slot)
    return found


def seal(connection: sqlite3.Connection, row: Row, stored: Stored, *, first_slot: int) -> int:
    """Give those of the same passages a checksum that have none, of what is there now; how many.

    Inside a transaction.
    """
    rows, sums = _passages(connection, row, stored, first_slot=first_slot)
    found = [
        (now, row.slots_key, slot) for (slot, *_, checksum), now in zip(rows, sums, strict=True) if checksum is None
    ]
    connection.executemany("UPDATE chunks SET checksum = ? WHERE collection = ? AND slot = ?", found)
    return len(found)


def _passages(
    connection: sqlite3.Connection, row: Row, stored: Stored, *, first_slot: int
) -> tuple[list[tuple[int, int, int, int, int, int | None]], list[int]]:
    """The rows of passages, each with its checksum on record at its end, and the checksums of what is there."""
    kept = "checksum" if has_column(connection) else "NULL"
    rows = connection.execute(
        f"SELECT slot, document, ordinal, start, end, {kept} FROM chunks "  # noqa: S608 -- our own names
        "WHERE collection = ? AND slot >= ? AND slot < ?",
        (row.slots_key, first_slot, first_slot + len(stored)),
    ).fetchall()
    size, data, crc32, pack = stored.dtype.itemsize, stored.tobytes(), zlib.crc32, _ROW.pack
    return rows, [
        crc32(pack(document, ordinal, start, end), crc32(data[(at := (slot - first_slot) * size) : at + size]))
        for slot, document, ordinal, start, end, _ in rows
    ]

"""Generations of a collection's vectors in SQL: the one being made beside the one in use, and those to be removed.

A generation has its own slots: its passages, tombstones and digests are kept under its own `slots_key`, beside those of
the others, and refer to the same documents. So a swap changes one row, and a reader with an older state sees all of it.

Functions take a connection; those that write must be called inside a transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from embank.store import collections, documents, wording
from embank.store.collections import Row, slots_key
from embank.store.protocol import Space

Making = Literal["filling", "compacting"]
"""How a generation comes about: by embedding documents, or by copying the live vectors of the one in use."""

_STEP_ROWS = 8_192
_COLUMNS = "generation, fingerprint, dimension, model, dtype, slots, read_sequence, read_document, started, changed"


@dataclass(frozen=True, slots=True)
class Filling:
    """A generation that is being made. `row` is the collection's as it would be with this generation in use.

    Where it is filled, every document up to (`read_sequence`, `read_document`) has its vectors in it.
    """

    row: Row
    read_sequence: int
    read_document: int
    started: float
    changed: float


@dataclass(frozen=True, slots=True)
class Pending:
    """A document that a generation being filled does not hold as it is now. `digest` names its present text."""

    key: int
    id: str
    sequence: int
    digest: bytes
    text: str


def filling(connection: sqlite3.Connection, row: Row, state: Making = "filling") -> Filling | None:
    """The generation of a collection that is being made in that way; `None` where there is none."""
    if not documents.has_generations(connection):
        return None
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM generations WHERE collection = ? AND state = ?",  # noqa: S608 -- a constant
        (row.key, state),
    ).fetchone()
    if found is None:
        return None
    generation, fingerprint, dimension, model, dtype, slots, sequence, document, started, changed = found
    info = replace(
        row.info,
        generation=generation,
        fingerprint=fingerprint,
        dimension=dimension,
        model=model,
        dtype=dtype,
        slots=slots,
    )
    return Filling(Row(row.key, info), sequence, document, started, changed)


def row_of(connection: sqlite3.Connection, key: int, generation: int) -> Row | None:
    """A collection's row, seen from one of its generations: in use or being made; `None` when it is neither."""
    row = collections.load(connection, key)
    if row is None or row.info.generation == generation:
        return row
    for state in get_args(Making):
        found = filling(connection, row, state)
        if found is not None and found.row.info.generation == generation:
            return found.row
    return None


def begin(
    connection: sqlite3.Connection, row: Row, space: Space, *, dtype: str, now: float, state: Making = "filling"
) -> None:
    """Begin to make a new generation. Its number was never used, or nothing is left of the one that had it."""
    (latest,) = connection.execute(
        "SELECT MAX(generation) FROM generations WHERE collection = ?", (row.key,)
    ).fetchone()
    connection.execute(
        "INSERT INTO generations (collection, generation, state, fingerprint, dimension, model, dtype, slots, "
        "read_sequence, read_document, started, changed) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?)",
        (
            row.key,
            max(row.info.generation, latest or 0) + 1,
            state,
            space.fingerprint,
            space.dimension,
            space.model,
            dtype,
            now,
            now,
        ),
    )


def pending(connection: sqlite3.Connection, at: Filling) -> Iterator[Pending]:
    """The documents that are still to be put into it, in the order of their changes; one text in memory at a time."""
    rows = connection.execute(
        # `sequence >= ?` stands by itself, so that the index gives the rows in their order from there on.
        "SELECT id, name, sequence, digest, text FROM documents WHERE collection = ? AND sequence >= ? "
        "AND (sequence > ? OR id > ?) AND NOT EXISTS "
        "(SELECT 1 FROM digests WHERE digests.document = documents.id AND slots_key = ?) ORDER BY sequence, id",
        (at.row.key, at.read_sequence, at.read_sequence, at.read_document, at.row.slots_key),
    )
    return (Pending(*row) for row in rows)


def remaining(connection: sqlite3.Connection, at: Filling) -> int:
    """How many documents are still to be put into it."""
    (count,) = connection.execute(
        "SELECT COUNT(*) FROM documents WHERE collection = ? AND sequence >= ? AND (sequence > ? OR id > ?) "
        "AND NOT EXISTS (SELECT 1 FROM digests WHERE digests.document = documents.id AND slots_key = ?)",
        (at.row.key, at.read_sequence, at.read_sequence, at.read_document, at.row.slots_key),
    ).fetchone()
    return int(count)


def is_current(connection: sqlite3.Connection, at: Filling, document: Pending) -> bool:
    """Whether the document is still there with the text that was read."""
    row = connection.execute(
        "SELECT digest FROM documents WHERE id = ? AND collection = ?", (document.key, at.row.key)
    ).fetchone()
    return row is not None and row[0] == document.digest


def record_digest(connection: sqlite3.Connection, at: Filling, document: Pending, digest: bytes) -> None:
    """Note that a document is in it, and what its vectors were made of."""
    connection.execute("INSERT INTO digests VALUES (?, ?, ?)", (document.key, at.row.slots_key, digest))


def move_on(connection: sqlite3.Connection, at: Filling, *, slots: int, read: tuple[int, int], now: float) -> None:
    """Record its mark and how far documents were read."""
    connection.execute(
        "UPDATE generations SET slots = ?, read_sequence = ?, read_document = ?, changed = ? "
        "WHERE collection = ? AND generation = ?",
        (slots, *read, now, at.row.key, at.row.info.generation),
    )


def take_over(
    connection: sqlite3.Connection, row: Row, at: Filling, slots: npt.NDArray[np.int64], *, now: float
) -> None:
    """Give it the passages at `slots` of the generation in use, whose vectors stand behind its mark in that order.

    Those that were deleted meanwhile are buried in it at once.
    """
    listed, mark = json.dumps(slots.tolist()), at.row.slots
    taken = connection.execute(
        "INSERT INTO chunks (collection, slot, document, ordinal, start, end, checksum) "
        "SELECT ?, ? + wanted.key, document, ordinal, start, end, checksum FROM json_each(?) AS wanted "
        "CROSS JOIN chunks ON collection = ? AND slot = wanted.value",
        (at.row.slots_key, mark, listed, row.slots_key),
    ).rowcount
    if taken < len(slots):
        connection.execute(
            "INSERT INTO tombstones (collection, slot, sequence) SELECT ?, ? + wanted.key, ? "
            "FROM json_each(?) AS wanted "
            "WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE collection = ? AND slot = wanted.value)",
            (at.row.slots_key, mark, row.sequence, listed, row.slots_key),
        )
    move_on(connection, at, slots=mark + len(slots), read=(0, 0), now=now)


def copy_digests(connection: sqlite3.Connection, row: Row, at: Filling, *, behind: int) -> int | None:
    """Copy some of the digests of the generation in use, those of documents behind `behind`.

    Returns how far this has come; `None` when there were no more.
    """
    last = _digests_behind(connection, behind)
    if last is not None:
        connection.execute(
            "INSERT INTO digests SELECT document, ?, digest FROM digests "
            "WHERE document > ? AND document <= ? AND slots_key = ?",
            (at.row.slots_key, behind, last, row.slots_key),
        )
    return last


def swap(connection: sqlite3.Connection, row: Row, at: Filling, *, now: float) -> tuple[int, int]:
    """Put the generation that was made in use and retire the other; the new sequence, and the passages there are."""
    (buried,) = connection.execute(
        "SELECT COUNT(*) FROM tombstones WHERE collection = ?", (at.row.slots_key,)
    ).fetchone()
    chunks = at.row.slots - int(buried)
    sequence = collections.replace_generation(connection, row, at.row, chunks=chunks, now=now)
    connection.execute(
        "DELETE FROM generations WHERE collection = ? AND generation = ?", (row.key, at.row.info.generation)
    )
    connection.execute(
        "INSERT INTO generations (collection, generation, state, slots, read_sequence, read_document, started, "
        "changed) VALUES (?, ?, 'retired', 0, 0, 0, ?, ?)",
        (row.key, row.info.generation, now, now),
    )
    return sequence, chunks


def retire(connection: sqlite3.Connection, at: Filling, *, now: float) -> None:
    """Give up a generation that was being made."""
    connection.execute(
        "UPDATE generations SET state = 'retired', read_document = 0, changed = ? "
        "WHERE collection = ? AND generation = ?",
        (now, at.row.key, at.row.info.generation),
    )


def every(connection: sqlite3.Connection, row: Row) -> list[int]:
    """All generations of which there may be rows or files: the one in use, one being made, those to be removed."""
    numbers = [row.info.generation]
    if documents.has_generations(connection):
        rows = connection.execute("SELECT generation FROM generations WHERE collection = ?", (row.key,))
        numbers += [int(number) for (number,) in rows]
    return sorted(numbers)


def retired(connection: sqlite3.Connection, key: int) -> list[int]:
    """The generations of a collection that are to be removed."""
    if not documents.has_generations(connection):
        return []
    rows = connection.execute("SELECT generation FROM generations WHERE collection = ? AND state = 'retired'", (key,))
    return [int(generation) for (generation,) in rows]


def erase_step(connection: sqlite3.Connection, key: int, generation: int) -> bool:
    """Remove some of the rows of a retired generation; whether there may be more."""
    own = slots_key(key, generation)
    return erase_slots(connection, own) or _erase_digests(connection, key, generation, own)


def erase_slots(connection: sqlite3.Connection, own: int) -> bool:
    """Remove some of the passages, tombstones and titles of a `slots_key`; whether there may be more."""
    # Passages first: while there are any, the removal of a document makes tombstones.
    for table in ("chunks", "tombstones"):
        gone = connection.execute(
            f"DELETE FROM {table} WHERE collection = ? AND slot IN "  # noqa: S608 -- our own names
            f"(SELECT slot FROM {table} WHERE collection = ? ORDER BY slot LIMIT {_STEP_ROWS})",
            (own, own),
        ).rowcount
        if gone:
            return True
    wording.forget(connection, own)
    return False


def forget(connection: sqlite3.Connection, key: int, generation: int) -> None:
    """Strike out a retired generation of which nothing is left."""
    connection.execute("DELETE FROM generations WHERE collection = ? AND generation = ?", (key, generation))


def _erase_digests(connection: sqlite3.Connection, key: int, generation: int, own: int) -> bool:
    # By ranges of documents, which the table is ordered by. How far this has come stands in the generation's own row.
    (behind,) = connection.execute(
        "SELECT read_document FROM generations WHERE collection = ? AND generation = ?", (key, generation)
    ).fetchone()
    last = _digests_behind(connection, behind)
    if last is None:
        return False
    connection.execute(
        "DELETE FROM digests WHERE document > ? AND document <= ? AND slots_key = ?", (behind, last, own)
    )
    connection.execute(
        "UPDATE generations SET read_document = ? WHERE collection = ? AND generation = ?", (last, key, generation)
    )
    return True


def _digests_behind(connection: sqlite3.Connection, behind: int) -> int | None:
    """The last document of the next step over all digests behind `behind`; `None` when there are no more."""
    last: int | None = connection.execute(
        "SELECT MAX(document) FROM (SELECT document FROM digests WHERE document > ? ORDER BY document LIMIT ?)",
        (behind, _STEP_ROWS),
    ).fetchone()[0]
    return last

"""Chunks of a collection by their slots: which there are, whose they are, and what they say.

Every call takes a connection and runs inside the caller's transaction. Documents are in `documents.py`.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from embank.store.around import reaches
from embank.store.collections import Row
from embank.store.predicate import Predicate
from embank.store.protocol import Passage


def matching_slots(connection: sqlite3.Connection, row: Row, where: Predicate) -> npt.NDArray[np.int64]:
    """Slots of the chunks whose documents match, ascending."""
    sql = (
        # CROSS JOIN keeps the order: the filter is for documents, and few of them may pass it.
        "SELECT slot FROM documents CROSS JOIN chunks ON chunks.document = documents.id "  # noqa: S608 -- values are bound
        f"WHERE documents.collection = ? AND chunks.collection = ? AND {where[0]}"
    )
    rows = connection.execute(sql, [row.key, row.slots_key, *where[1]])
    slots = _slots(rows)
    slots.sort()
    return slots


def buried_slots(connection: sqlite3.Connection, row: Row, *, after: int) -> npt.NDArray[np.int64]:
    """Slots of tombstones made after the sequence `after`."""
    rows = connection.execute(
        "SELECT slot FROM tombstones WHERE collection = ? AND sequence > ?", (row.slots_key, after)
    )
    return _slots(rows)


def passages(connection: sqlite3.Connection, row: Row, slots: Sequence[int], *, around: int = 0) -> list[Passage]:
    """The chunks at `slots`, in that order, with `around` further ones on both sides; those not there are left out."""
    rows = connection.execute(
        "SELECT slot, document, ordinal, start, end FROM chunks "
        "WHERE collection = ? AND slot IN (SELECT value FROM json_each(?))",
        (row.slots_key, _json(int(slot) for slot in slots)),
    ).fetchall()
    documents = {
        document: (name, text, json.loads(metadata))
        for document, name, text, metadata in connection.execute(
            "SELECT id, name, text, metadata FROM documents WHERE id IN (SELECT value FROM json_each(?))",
            (_json({document for _, document, *_ in rows}),),
        )
    }
    reach = reaches(connection, row, slots, around) if around else {}
    found = {}
    for slot, document, ordinal, start, end in rows:
        name, text, metadata = documents[document]
        first, last = reach.get(slot, (start, end))
        before, after = text[first:start], text[end:last]
        found[slot] = Passage(slot, name, ordinal, start, end, text[start:end], metadata, before, after)
    return [found[slot] for slot in map(int, slots) if slot in found]


def owners(connection: sqlite3.Connection, row: Row, slots: Sequence[int]) -> dict[int, int]:
    """The document row of each slot: enough to group chunks by document without reading any text."""
    rows = connection.execute(
        "SELECT slot, document FROM chunks WHERE collection = ? AND slot IN (SELECT value FROM json_each(?))",
        (row.slots_key, _json(int(slot) for slot in slots)),
    )
    return dict(rows)


def names_of_slots(connection: sqlite3.Connection, row: Row, slots: Sequence[int]) -> dict[int, str]:
    """The id of the document of each slot."""
    rows = connection.execute(
        "SELECT slot, name FROM json_each(?) AS wanted "
        "CROSS JOIN chunks ON chunks.collection = ? AND chunks.slot = wanted.value "
        "CROSS JOIN documents ON documents.id = chunks.document",
        (_json(int(slot) for slot in slots), row.slots_key),
    )
    return dict(rows)


def slots_of(connection: sqlite3.Connection, row: Row, ids: Iterable[str]) -> dict[str, list[int]]:
    """The slots of the passages of each document of `ids`; those not held are left out."""
    rows = connection.execute(
        "SELECT name, slot FROM documents LEFT JOIN chunks ON chunks.document = documents.id AND chunks.collection = ? "
        "WHERE documents.collection = ? AND name IN (SELECT value FROM json_each(?)) ORDER BY name, slot",
        (row.slots_key, row.key, _json(ids)),
    )
    found: dict[str, list[int]] = {}
    for name, slot in rows:
        found.setdefault(name, []).extend([] if slot is None else [slot])
    return found


def slot_behind(connection: sqlite3.Connection, row: Row, *, first_slot: int, rows: int) -> int | None:
    """The slot of the chunk that follows the first `rows` chunks from `first_slot` on; `None` if there are no more."""
    found = connection.execute(
        "SELECT slot FROM chunks WHERE collection = ? AND slot >= ? ORDER BY slot LIMIT 1 OFFSET ?",
        (row.slots_key, first_slot, rows),
    ).fetchone()
    return None if found is None else int(found[0])


def slots_from(connection: sqlite3.Connection, row: Row, *, first_slot: int, limit: int) -> npt.NDArray[np.int64]:
    """At most `limit` slots of chunks from `first_slot` on, ascending."""
    rows = connection.execute(
        "SELECT slot FROM chunks WHERE collection = ? AND slot >= ? ORDER BY slot LIMIT ?",
        (row.slots_key, first_slot, limit),
    )
    return _slots(rows)


def count_chunks(connection: sqlite3.Connection, row: Row, *, below: int) -> int:
    """Chunks at slots below `below`, counted one by one."""
    (count,) = connection.execute(
        "SELECT COUNT(*) FROM chunks WHERE collection = ? AND slot < ?", (row.slots_key, below)
    ).fetchone()
    return int(count)


def _slots(rows: Iterable[tuple[int]]) -> npt.NDArray[np.int64]:
    """A column of slots. Not gathered by numpy, which keeps freed arrays of every length below a kilobyte for ever."""
    return np.frombuffer(array("q", (slot for (slot,) in rows)), np.int64)


def _json(values: Iterable[object]) -> str:
    return json.dumps(list(values), ensure_ascii=False)

"""Documents, chunks and tombstones in SQL: every statement about them, and nothing about vectors or views.

Functions take a connection; those that write must be called inside a transaction. Lists of any length go in as one
bound JSON value, because SQLite limits the number of parameters.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from embank.errors import InvalidInput
from embank.records import Chunk, Document, Metadata
from embank.store import wording
from embank.store.around import reaches
from embank.store.collections import Row
from embank.store.predicate import Predicate
from embank.store.protocol import Known, Passage, StoredDocument, Upsert

MAX_METADATA_BYTES = 65_536
MAX_ID_BYTES = 1_024
MAX_TEXT_BYTES = 4_194_304

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":"))
"""Made once: `json.dumps` makes one for every document."""


def check_document(document: Document) -> None:
    """Raise `InvalidInput` for an id, a text or metadata that can't be kept; names the document and the value."""
    name: object = document.id
    text: object = document.text
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"a document's id must be a string that is not empty, not {name!r}")
    if not isinstance(text, str):
        raise InvalidInput(f"document {name!r}: the text must be a string, not {type(text).__name__}")
    try:
        id_bytes, text_bytes = len(name.encode()), len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"document {name!r}: a lone surrogate at {error.start} is not valid Unicode") from error
    if "\0" in name:  # SQLite's JSON functions end a string there
        raise InvalidInput(f"document {name!r}: an id can't hold a NUL character")
    if id_bytes > MAX_ID_BYTES:
        raise InvalidInput(f"document {name[:40]!r}…: an id has at most {MAX_ID_BYTES} bytes, not {id_bytes}")
    if text_bytes > MAX_TEXT_BYTES:
        raise InvalidInput(
            f"document {name!r}: a text has at most {MAX_TEXT_BYTES:,} bytes, not {text_bytes:,}: "
            f"cut it into several documents, or index it as a file, which does that"
        )
    encode_metadata(document)


def encode_metadata(document: Document) -> str:
    """Canonical JSON of a document's metadata; `InvalidInput` when it is no JSON object or too large."""
    given: object = document.metadata
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise InvalidInput(f"document {document.id!r}: the metadata must be a mapping with string keys")
    try:
        encoded = _CANONICAL.encode(dict(given))
        size = len(encoded.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"document {document.id!r}: the metadata can't be kept: {error}") from error
    if size > MAX_METADATA_BYTES:
        raise InvalidInput(f"document {document.id!r}: metadata of {size:,} bytes; at most {MAX_METADATA_BYTES:,}")
    return encoded


def known(connection: sqlite3.Connection, row: Row, ids: Iterable[str]) -> dict[str, Known]:
    """What is held under each of `ids`; those not held are left out."""
    digest = "digest"
    if row.info.generation:  # what its vectors were made of is told apart from what the document was written with
        digest = (
            "IFNULL((SELECT digests.digest FROM digests "  # noqa: S608 -- a number of ours
            f"WHERE document = documents.id AND slots_key = {row.slots_key}), documents.digest)"
        )
    rows = connection.execute(
        f"SELECT name, {digest}, metadata, root, origin FROM documents "  # noqa: S608 -- a number of ours
        "WHERE collection = ? AND name IN (SELECT value FROM json_each(?))",
        (row.key, _json(ids)),
    )
    return {name: Known(digest, metadata, root, origin) for name, digest, metadata, root, origin in rows}


def put(
    connection: sqlite3.Connection,
    row: Row,
    upsert: Upsert,
    *,
    root: str | None,
    first_slot: int,
    sequence: int,
    now: float,
) -> None:
    """Insert a document and its chunks. What was held under its id must have been removed before."""
    document = upsert.document
    cursor = connection.execute(
        "INSERT INTO documents (collection, name, digest, root, origin, sequence, added, changed, metadata, text) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.key,
            document.id,
            upsert.digest,
            root,
            document.origin,
            sequence,
            now,
            now,
            encode_metadata(document),
            document.text,
        ),
    )
    put_chunks(connection, row, int(cursor.lastrowid or 0), upsert.chunks, first_slot=first_slot)


def put_chunks(
    connection: sqlite3.Connection, row: Row, document: int, chunks: Sequence[Chunk], *, first_slot: int
) -> None:
    """Insert the chunks of the document with the row id `document`, at slots from `first_slot` on."""
    connection.executemany(
        "INSERT INTO chunks (collection, slot, document, ordinal, start, end) VALUES (?, ?, ?, ?, ?, ?)",
        (
            (row.slots_key, first_slot + ordinal, document, ordinal, chunk.start, chunk.end)
            for ordinal, chunk in enumerate(chunks)
        ),
    )


def relabel(
    connection: sqlite3.Connection,
    collection: int,
    document: Document,
    *,
    root: str | None,
    sequence: int,
    now: float,
    titles: tuple[str, ...],
) -> None:
    """Change the metadata and the origin of a document and nothing else; `titles` are the keys of its title."""
    found = connection.execute(
        "SELECT id, metadata FROM documents WHERE collection = ? AND name = ?", (collection, document.id)
    ).fetchone()
    if found and wording.title(json.loads(found[1]), titles) != wording.title(document.metadata, titles):
        wording.retitle(connection, found[0], sequence=sequence)
    connection.execute(
        "UPDATE documents SET metadata = ?, root = ?, origin = ?, sequence = ?, changed = ? "
        "WHERE collection = ? AND name = ?",
        (encode_metadata(document), root, document.origin, sequence, now, collection, document.id),
    )


def remove(connection: sqlite3.Connection, row: Row, ids: Iterable[str], *, sequence: int) -> tuple[int, int, int]:
    """Bury the chunks of `ids` and delete the documents: (documents, chunks, bytes of text) that went.

    Chunks of every generation are buried, also of one that is being filled; those of the one in use are counted.
    """
    rows = connection.execute(
        "SELECT id, length(CAST(text AS BLOB)) FROM documents "
        "WHERE collection = ? AND name IN (SELECT value FROM json_each(?))",
        (row.key, _json(ids)),
    ).fetchall()
    if not rows:
        return 0, 0, 0
    doomed = _json(document for document, _ in rows)
    connection.execute(
        "INSERT INTO tombstones (collection, slot, sequence) "
        "SELECT collection, slot, ? FROM chunks WHERE document IN (SELECT value FROM json_each(?))",
        (sequence, doomed),
    )
    (chunks,) = connection.execute(
        "SELECT COUNT(*) FROM chunks WHERE document IN (SELECT value FROM json_each(?)) AND collection = ?",
        (doomed, row.slots_key),
    ).fetchone()
    connection.execute("DELETE FROM chunks WHERE document IN (SELECT value FROM json_each(?))", (doomed,))
    if has_generations(connection):
        connection.execute("DELETE FROM digests WHERE document IN (SELECT value FROM json_each(?))", (doomed,))
    connection.execute("DELETE FROM documents WHERE id IN (SELECT value FROM json_each(?))", (doomed,))
    return len(rows), chunks, sum(size for _, size in rows)


def unchanged(connection: sqlite3.Connection, row: Row, seen: Iterable[tuple[int, int]]) -> list[str]:
    """Ids of the documents that are still as they were `seen`, each as (row id, sequence); in that order."""
    rows = connection.execute(
        "SELECT name FROM json_each(?) AS seen CROSS JOIN documents ON documents.id = json_extract(seen.value, '$[0]') "
        "WHERE collection = ? AND sequence = json_extract(seen.value, '$[1]') ORDER BY seen.key",
        (_json(seen), row.key),
    )
    return [name for (name,) in rows]


def weight(connection: sqlite3.Connection, row: Row, keys: Iterable[int]) -> tuple[int, int]:
    """Chunks and bytes of text of the documents with these row ids."""
    listed = _json(keys)
    (chunks,) = connection.execute(
        "SELECT COUNT(*) FROM chunks WHERE document IN (SELECT value FROM json_each(?)) AND collection = ?",
        (listed, row.slots_key),
    ).fetchone()
    (text_bytes,) = connection.execute(
        "SELECT IFNULL(SUM(length(CAST(text AS BLOB))), 0) FROM documents WHERE id IN (SELECT value FROM json_each(?))",
        (listed,),
    ).fetchone()
    return int(chunks), int(text_bytes)


def fetch(connection: sqlite3.Connection, row: Row, ids: Sequence[str]) -> list[StoredDocument]:
    """The documents of `ids`, in that order; those not held are left out."""
    found = {
        document.id: document
        for document in _stored(
            connection, row, "collection = ? AND name IN (SELECT value FROM json_each(?))", [row.key, _json(ids)]
        )
    }
    return [found[name] for name in ids if name in found]


def listing(
    connection: sqlite3.Connection, row: Row, *, limit: int, after: str | None, where: Predicate | None
) -> list[StoredDocument]:
    """At most `limit` documents in the order of their ids, those behind `after`: stable while writes go on."""
    condition = "collection = ?"
    values: list[Any] = [row.key]
    if after is not None:
        condition, values = condition + " AND name > ?", [*values, after]
    if where is not None:
        condition, values = f"{condition} AND {where[0]}", [*values, *where[1]]
    return list(_stored(connection, row, f"{condition} ORDER BY name LIMIT ?", [*values, limit]))


def matching_ids(connection: sqlite3.Connection, collection: int, where: Predicate) -> list[str]:
    """Ids of the documents for which the filter holds."""
    sql = f"SELECT name FROM documents WHERE collection = ? AND {where[0]} ORDER BY name"  # noqa: S608 -- values bound
    return [name for (name,) in connection.execute(sql, [collection, *where[1]])]


def count(connection: sqlite3.Connection, row: Row, where: Predicate) -> int:
    """How many documents the filter holds for."""
    sql = f"SELECT COUNT(*) FROM documents WHERE collection = ? AND {where[0]}"  # noqa: S608 -- values are bound
    (found,) = connection.execute(sql, [row.key, *where[1]]).fetchone()
    return int(found)


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


def metadata_since(connection: sqlite3.Connection, row: Row, after: int) -> Iterator[tuple[int, str]]:
    """(slot, metadata as JSON) of the passages of the documents that changed after the sequence `after`.

    The passages of a document come one after another.
    """
    return connection.execute(
        "SELECT slot, metadata FROM documents CROSS JOIN chunks ON chunks.document = documents.id "
        "WHERE documents.collection = ? AND documents.sequence > ? AND chunks.collection = ?",
        (row.key, after, row.slots_key),
    )


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


def texts(
    connection: sqlite3.Connection, row: Row, *, first_slot: int, below: int, titles: tuple[str, ...]
) -> Iterator[tuple[int, str, str]]:
    """(slot, passage, title) of the chunks in [first_slot, below), ascending; one document in memory at a time."""
    rows = connection.execute(
        "SELECT document, slot, start, end FROM chunks WHERE collection = ? AND slot >= ? AND slot < ? ORDER BY slot",
        (row.slots_key, first_slot, below),
    )
    for document, members in groupby(rows, key=itemgetter(0)):
        text, metadata = connection.execute("SELECT text, metadata FROM documents WHERE id = ?", (document,)).fetchone()
        title = wording.title(json.loads(metadata), titles) if titles else ""
        for _, slot, start, end in members:
            yield slot, text[start:end], title


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


def has_generations(connection: sqlite3.Connection) -> bool:
    """Whether any collection of the bank ever got another generation: the tables for it are made when first needed."""
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'digests'").fetchone() is not None


def _slots(rows: Iterable[tuple[int]]) -> npt.NDArray[np.int64]:
    """A column of slots. Not gathered by numpy, which keeps freed arrays of every length below a kilobyte for ever."""
    return np.frombuffer(array("q", (slot for (slot,) in rows)), np.int64)


def _stored(connection: sqlite3.Connection, row: Row, tail: str, values: list[Any]) -> Iterator[StoredDocument]:
    rows = connection.execute(
        "SELECT name, text, metadata, root, origin, added, changed, "  # noqa: S608 -- the tail is ours, values are bound
        f"(SELECT COUNT(*) FROM chunks WHERE document = documents.id AND chunks.collection = ?) "
        f"FROM documents WHERE {tail}",
        [row.slots_key, *values],
    )
    for name, text, metadata, root, origin, added, changed, chunks in rows:
        yield StoredDocument(name, text, json.loads(metadata), root, origin, chunks, added, changed)


def decode_metadata(encoded: str) -> Metadata:
    """The inverse of `encode_metadata`."""
    decoded: Metadata = json.loads(encoded)
    return decoded


def _json(values: Iterable[Any]) -> str:
    return json.dumps(list(values), ensure_ascii=False)

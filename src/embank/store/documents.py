"""Documents, chunks and tombstones in SQL: every statement about them, and nothing about vectors or views.

Functions take a connection; those that write must be called inside a transaction. Lists of any length go in as one
bound JSON value, because SQLite limits the number of parameters.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from embank.errors import InvalidInput
from embank.records import Chunk, Document, Metadata
from embank.store import checksums, wording
from embank.store.collections import Row
from embank.store.predicate import Predicate
from embank.store.protocol import Known, StoredDocument, Upsert

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
    sums: Iterator[int],
    sequence: int,
    now: float,
) -> None:
    """Insert a document and its chunks. What was held under its id must have been removed before.

    `sums` gives the checksums of the records of its chunks, and then those of others.
    """
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
    put_chunks(connection, row, int(cursor.lastrowid or 0), upsert.chunks, first_slot=first_slot, sums=sums)


def put_chunks(
    connection: sqlite3.Connection,
    row: Row,
    document: int,
    chunks: Sequence[Chunk],
    *,
    first_slot: int,
    sums: Iterator[int],
) -> None:
    """Insert the chunks of the document with the row id `document`, at slots from `first_slot` on.

    `sums` gives the checksums of their records, and then those of others.
    """
    connection.executemany(
        "INSERT INTO chunks (collection, slot, document, ordinal, start, end, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (
                row.slots_key,
                first_slot + ordinal,
                document,
                ordinal,
                chunk.start,
                chunk.end,
                checksums.of_passage(record, document, ordinal, chunk.start, chunk.end),
            )
            for ordinal, (chunk, record) in enumerate(zip(chunks, sums, strict=False))
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


def metadata_since(connection: sqlite3.Connection, row: Row, after: int) -> Iterator[tuple[int, str]]:
    """(slot, metadata as JSON) of the passages of the documents that changed after the sequence `after`.

    The passages of a document come one after another.
    """
    return connection.execute(
        "SELECT slot, metadata FROM documents CROSS JOIN chunks ON chunks.document = documents.id "
        "WHERE documents.collection = ? AND documents.sequence > ? AND chunks.collection = ?",
        (row.key, after, row.slots_key),
    )


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


def has_generations(connection: sqlite3.Connection) -> bool:
    """Whether any collection of the bank ever got another generation: the tables for it are made when first needed."""
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'digests'").fetchone() is not None


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

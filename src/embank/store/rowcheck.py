"""Whether the rows of `bank.db` agree with each other and with what is recorded of them.

Functions take a connection inside one read transaction, and yield what they find; `sqlite3.DatabaseError` where the
file can't be read on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from embank.store.collections import Row
from embank.store.reports import Finding
from embank.store.schema import DATABASE

MAX_IDS = 1_000

_OF_DOCUMENTS = (
    ("whose passages lie outside their texts", "length(CAST(text AS BLOB)) < {passages_end}"),
    ("whose metadata are not JSON", "NOT json_valid(metadata)"),
)
_PASSAGES_END = (
    "(SELECT IFNULL(MAX(end), 0) FROM chunks AS c WHERE c.document = documents.id AND c.collection = :slots)"
)
_OF_PASSAGES = (
    ("with passages beyond the recorded number of vectors", "slot < 0 OR slot >= :mark"),
    ("with passages that begin after their end", "start < 0 OR end < start"),
    (
        "with passages whose vectors are marked as removed",
        "EXISTS (SELECT 1 FROM tombstones AS t WHERE t.collection = :slots AND t.slot = chunks.slot)",
    ),
)

_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_INTERRUPT,
}


def as_finding(error: Exception, name: str | None = None) -> Finding:
    """What an error says of the file; one that says nothing of it, such as a lock, is raised again."""
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _PASSING:
        raise error
    return Finding("damaged", name, DATABASE, str(error))


def pages(connection: sqlite3.Connection, *, full: bool) -> Iterator[Finding]:
    """What SQLite itself finds wrong with the file; `full` also holds its indexes against its tables."""
    try:
        for (message,) in connection.execute("PRAGMA integrity_check" if full else "PRAGMA quick_check"):
            if message != "ok":
                yield Finding("damaged", None, DATABASE, str(message))
    except sqlite3.DatabaseError as error:  # it can't be read on: what else can be told of it is worth having
        yield as_finding(error)


def collection(connection: sqlite3.Connection, row: Row) -> Iterator[Finding]:
    """A collection's documents against what is recorded of them."""
    name, values = row.info.name, {"key": row.key, "slots": row.slots_key}
    documents, text_bytes = connection.execute(
        "SELECT COUNT(*), IFNULL(SUM(length(CAST(text AS BLOB))), 0) FROM documents WHERE collection = :key", values
    ).fetchone()
    yield from _differs(name, "documents", row.info.documents, documents)
    yield from _differs(name, "bytes of text", row.info.text_bytes, text_bytes)
    for words, rule in _OF_DOCUMENTS:
        condition = rule.format(passages_end=_PASSAGES_END)
        yield from _documents(connection, name, words, f"documents WHERE collection = :key AND {condition}", values)


def passages(connection: sqlite3.Connection, row: Row, *, in_use: bool) -> Iterator[Finding]:
    """The passages and tombstones of a generation: every vector below the mark has one of the two."""
    name, values = row.info.name, {"key": row.key, "slots": row.slots_key, "mark": row.slots}
    alive, lost = connection.execute(
        "SELECT COUNT(*), COUNT(*) FILTER (WHERE NOT EXISTS "
        "(SELECT 1 FROM documents WHERE documents.id = document AND documents.collection = :key)) "
        "FROM chunks WHERE collection = :slots",
        values,
    ).fetchone()
    (removed,) = connection.execute("SELECT COUNT(*) FROM tombstones WHERE collection = :slots", values).fetchone()
    if in_use:
        yield from _differs(name, "passages", row.info.chunks, alive)
    yield from _differs(name, "vectors", row.slots, alive + removed)
    if lost:
        yield Finding("damaged", name, DATABASE, f"{lost:,} passages belong to no document")
    for words, rule in _OF_PASSAGES:
        tables = f"chunks JOIN documents ON documents.id = document WHERE chunks.collection = :slots AND ({rule})"
        yield from _documents(connection, name, words, tables, values)


def texts(connection: sqlite3.Connection, row: Row) -> Iterator[Finding]:
    """Documents whose text can't be read, or is not valid UTF-8; one text in memory at a time."""
    bad: list[str] = []
    # Names come from an index, so that a damaged table still tells which they are.
    listed = "SELECT id, name FROM documents INDEXED BY sqlite_autoindex_documents_1 WHERE collection = ?"
    for key, name in connection.execute(listed, (row.key,)):
        try:
            found = connection.execute(
                "SELECT CAST(text AS BLOB), metadata FROM documents WHERE id = ? AND name = ?", (key, name)
            ).fetchone()
            if found is not None:
                found[0].decode()
                continue
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            as_finding(error)  # counted below, as one that is not found at all
        bad.append(str(name))
    if bad:
        message = f"{len(bad):,} documents can't be read"
        yield Finding("damaged", row.info.name, DATABASE, message, tuple(bad[:MAX_IDS]), len(bad))


def of_slots(connection: sqlite3.Connection, row: Row, slots: str) -> tuple[tuple[str, ...], int]:
    """Ids of the documents that have passages at `slots` (a JSON list), the first of them, and how many there are."""
    return _ids(
        connection,
        "documents WHERE id IN (SELECT document FROM json_each(:listed) AS wanted "
        "JOIN chunks ON collection = :slots AND slot = wanted.value)",
        {"listed": slots, "slots": row.slots_key},
    )


def _differs(name: str, what: str, recorded: int, found: int) -> Iterator[Finding]:
    if recorded != found:
        yield Finding("damaged", name, DATABASE, f"{recorded:,} {what} are recorded, and {found:,} are there")


def _documents(
    connection: sqlite3.Connection, name: str, words: str, tables: str, values: dict[str, Any]
) -> Iterator[Finding]:
    ids, count = _ids(connection, tables, values)
    if count:
        yield Finding("damaged", name, DATABASE, f"{count:,} documents {words}", ids, count)


def _ids(connection: sqlite3.Connection, tables: str, values: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    ids: list[str] = []
    count = 0
    for (name,) in connection.execute(f"SELECT DISTINCT name FROM {tables} ORDER BY name", values):  # noqa: S608 -- our own words
        count += 1
        if count <= MAX_IDS:
            ids.append(str(name))
    return tuple(ids), count

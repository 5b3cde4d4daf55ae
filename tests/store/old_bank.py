"""A bank of format 1 as the first Embank made it: its statements, kept here word for word."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE collections (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, metric TEXT NOT NULL, role TEXT NOT NULL,
    protected INTEGER NOT NULL, model TEXT, fingerprint TEXT, dimension INTEGER, dtype TEXT NOT NULL,
    generation INTEGER NOT NULL, sequence INTEGER NOT NULL, slots INTEGER NOT NULL, documents INTEGER NOT NULL,
    chunks INTEGER NOT NULL, text_bytes INTEGER NOT NULL, created REAL NOT NULL, changed REAL NOT NULL);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, collection INTEGER NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL, root TEXT,
    origin TEXT, sequence INTEGER NOT NULL, added REAL NOT NULL, changed REAL NOT NULL, metadata TEXT NOT NULL,
    text TEXT NOT NULL, UNIQUE (collection, name));
CREATE INDEX documents_by_origin ON documents (collection, root, origin) WHERE root IS NOT NULL;
CREATE TABLE chunks (
    collection INTEGER NOT NULL, slot INTEGER NOT NULL, document INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL, end INTEGER NOT NULL, PRIMARY KEY (collection, slot)) WITHOUT ROWID;
CREATE INDEX chunks_by_document ON chunks (document);
CREATE TABLE tombstones (
    collection INTEGER NOT NULL, slot INTEGER NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (collection, slot)) WITHOUT ROWID;
CREATE INDEX tombstones_by_sequence ON tombstones (collection, sequence);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, act TEXT NOT NULL, collection TEXT, detail TEXT NOT NULL);
"""


def make(root: Path, texts: list[str]) -> None:
    """A bank with these documents in the collection `old`: d0, d1, … and no vectors yet."""
    root.mkdir()
    with closing(sqlite3.connect(root / "bank.db")) as connection:
        connection.executescript(TABLES)
        connection.execute("INSERT INTO meta VALUES ('format', '1')")
        connection.execute("INSERT INTO meta VALUES ('bank', 'feed')")
        size = sum(len(text.encode()) for text in texts)
        connection.execute(
            "INSERT INTO collections VALUES (1, 'old', 'cosine', 'local', 0, NULL, NULL, NULL, 'fp16', 0, 1, 0, ?, 0, "
            "?, 1.0, 1.0)",
            (len(texts), size),
        )
        connection.executemany(
            "INSERT INTO documents (collection, name, digest, sequence, added, changed, metadata, text) "
            "VALUES (1, ?, x'00', 1, 1.0, 1.0, '{}', ?)",
            [(f"d{number}", text) for number, text in enumerate(texts)],
        )
        connection.commit()
    (root / "FORMAT").write_text("embank 1\n")

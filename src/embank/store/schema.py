"""The tables of `bank.db`, their version, and the creation of a bank's directory."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from embank.errors import BankDamaged, BankNotFound, FormatTooNew, InvalidInput
from embank.system.files import Files
from embank.system.sqlite import connect, transaction

FORMAT = 2
"""The newest format that is read: 1, or 2 once a collection was re-embedded or compacted, which what knows 1 alone
would misread."""

_FIRST_FORMAT = 1
DATABASE = "bank.db"
_OWN_NAMES = {"LOCK", "FORMAT", DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal"}

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- `sequence` counts the changes of a collection; `slots` is the mark: the number of vectors ever appended.
CREATE TABLE collections (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, metric TEXT NOT NULL, role TEXT NOT NULL,
    protected INTEGER NOT NULL, model TEXT, fingerprint TEXT, dimension INTEGER, dtype TEXT NOT NULL,
    generation INTEGER NOT NULL, sequence INTEGER NOT NULL, slots INTEGER NOT NULL, documents INTEGER NOT NULL,
    chunks INTEGER NOT NULL, text_bytes INTEGER NOT NULL, created REAL NOT NULL, changed REAL NOT NULL);

-- `text` stands last: a scan over metadata then never reads the pages that long texts overflow to.
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, collection INTEGER NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL, root TEXT,
    origin TEXT, sequence INTEGER NOT NULL, added REAL NOT NULL, changed REAL NOT NULL, metadata TEXT NOT NULL,
    text TEXT NOT NULL, UNIQUE (collection, name));
CREATE INDEX documents_by_origin ON documents (collection, root, origin) WHERE root IS NOT NULL;
-- Banks of before had it with format 2 only; without it, what changed lately is found by reading all rows.
CREATE INDEX documents_by_sequence ON documents (collection, sequence);

-- A passage is text[start:end] of its document and the vector at its slot. Slots grow with the sequence.
CREATE TABLE chunks (
    collection INTEGER NOT NULL, slot INTEGER NOT NULL, document INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL, end INTEGER NOT NULL, checksum INTEGER, PRIMARY KEY (collection, slot)) WITHOUT ROWID;
CREATE INDEX chunks_by_document ON chunks (document);

CREATE TABLE tombstones (
    collection INTEGER NOT NULL, slot INTEGER NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (collection, slot)) WITHOUT ROWID;
CREATE INDEX tombstones_by_sequence ON tombstones (collection, sequence);

CREATE TABLE audit (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, act TEXT NOT NULL, collection TEXT, detail TEXT NOT NULL);
"""

_GENERATION_TABLES = """
-- Generations of a collection beside the one in use: "filling" by a re-embedding, "compacting" by a compaction that is
-- under way or was cut short, or "retired" and to be removed.
-- All documents up to (`read_sequence`, `read_document`) are in the one that is being filled.
CREATE TABLE IF NOT EXISTS generations (
    collection INTEGER NOT NULL, generation INTEGER NOT NULL, state TEXT NOT NULL, fingerprint TEXT,
    dimension INTEGER, model TEXT, dtype TEXT, slots INTEGER NOT NULL, read_sequence INTEGER NOT NULL,
    read_document INTEGER NOT NULL, started REAL NOT NULL, changed REAL NOT NULL,
    PRIMARY KEY (collection, generation)) WITHOUT ROWID;

-- The digest of what a document's vectors of a later generation were made of; else `documents.digest` says it.
CREATE TABLE IF NOT EXISTS digests (
    document INTEGER NOT NULL, slots_key INTEGER NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (document, slots_key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS documents_by_sequence ON documents (collection, sequence);
"""


def check_place(root: Path) -> None:
    """Raise unless `root` is free for a new bank: missing, empty, or the rest of a creation that was cut short."""
    if not root.exists():
        return
    if not root.is_dir():
        raise InvalidInput(f"{root} is a file; a bank is a directory", path=str(root))
    strangers = {path.name for path in root.iterdir()} - _OWN_NAMES
    strangers = {name for name in strangers if not name.startswith(".FORMAT.")}
    if strangers:
        raise InvalidInput(
            f"{root} is a directory of other things ({', '.join(sorted(strangers)[:3])}), not a bank: "
            f"name one that is new or empty",
            path=str(root),
        )


def create(root: Path, *, files: Files) -> None:
    """Make an empty bank in `root`, or finish one whose creation was cut short; its lock is held. `FORMAT` is last."""
    import uuid  # what only reads a bank needs none of it

    connection = connect(root / DATABASE)
    try:
        with transaction(connection):
            if not has_table(connection, "meta"):
                _execute_each(connection, _TABLES)
                connection.execute("INSERT INTO meta VALUES ('format', ?)", (str(_FIRST_FORMAT),))
                connection.execute("INSERT INTO meta VALUES ('bank', ?)", (uuid.uuid4().hex,))
    finally:
        connection.close()
    write_format(root, _FIRST_FORMAT, files=files)


def add_generations(connection: sqlite3.Connection) -> None:
    """The tables that came with format 2; inside a transaction."""
    _execute_each(connection, _GENERATION_TABLES)


def check_format(root: Path) -> None:
    """Raise unless `root` holds a bank that this version can read."""
    number = written_format(root)
    if number > FORMAT:
        raise FormatTooNew(
            f"{root} has format {number}, this Embank reads up to {FORMAT}: upgrade Embank; the bank is untouched",
            path=str(root),
            format=number,
        )
    if not (root / DATABASE).exists():
        raise BankDamaged(f"{root / DATABASE} is missing: restore the bank from a backup", path=str(root))


def written_format(root: Path) -> int:
    """The number in the file FORMAT: never less than the database's own."""
    try:
        told = re.fullmatch(rb"embank ([1-9][0-9]*)\n", (root / "FORMAT").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BankNotFound(f"there is no bank at {root}", path=str(root)) from error
    if told is None:
        raise BankDamaged(
            f"{root / 'FORMAT'} is damaged: it should read 'embank {_FIRST_FORMAT}', or 'embank {FORMAT}' where a "
            f"collection was re-embedded or compacted; write that, or restore the bank from a backup",
            path=str(root),
        )
    return int(told[1])


def write_format(root: Path, number: int, *, files: Files) -> None:
    """Put a number into the file FORMAT, whole and durably."""
    files.replace(root / "FORMAT", f"embank {number}\n".encode())


def bank_id(connection: sqlite3.Connection) -> str:
    """The bank's own identity, made at its creation."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'bank'").fetchone()
    return str(row[0])


def _execute_each(connection: sqlite3.Connection, statements: str) -> None:
    # executescript would commit the open transaction, so each statement by itself.
    for statement in statements.split(";\n"):
        if statement.strip():
            connection.execute(statement)


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there is a table of that name: some are made when first needed."""
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).fetchone() is not None

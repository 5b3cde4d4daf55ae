"""SQLite, opened the one way that the store relies on: WAL, every commit synchronised, bounded caches.

Connections are in autocommit mode; `transaction` is the only way to write. `Readers` lends read-only connections to
any number of threads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import quote

WRITER_CACHE_KIB = 2048
READER_CACHE_KIB = 512
BUSY_TIMEOUT_S = 10.0
IDLE_READERS = 4


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open `path`; a missing file is created unless `read_only`.

    A read-only connection to a database on a medium that can't be written falls back to `immutable`, which is right
    there and only there: nobody else can be writing it.
    """
    if not read_only:
        connection = _open(path, "rwc")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
        connection.execute("PRAGMA journal_size_limit=8388608")
        # Temporary tables (the ids seen in a run) belong on the disk, not in the budget.
        connection.execute("PRAGMA temp_store=FILE")
        return connection
    try:
        connection = _open(path, "ro")
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        if path.with_name(path.name + "-wal").exists() or not path.exists():
            raise
        connection = _open(path, "ro&immutable=1")
    connection.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}")
    return connection


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_S,
        cached_statements=64,
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Everything inside is committed at the end, or nothing is."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # After some errors (a full disk) SQLite has rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All reads inside see one and the same state."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class Readers:
    """A pool of read-only connections: as many as threads that read at once, of which a few are kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection inside one read transaction."""
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = connect(self._path, read_only=True)
        try:
            with snapshot(connection):
                yield connection
        except BaseException:
            connection.close()
            raise
        if self._idle.qsize() < IDLE_READERS:
            self._idle.put(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections; one that is lent is closed by its own thread's error or kept until collected."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

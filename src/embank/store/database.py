"""The database of an open bank: who may read, who may write, and what SQLite's errors mean for the bank."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embank.errors import BankDamaged, BankReadOnly, StorageFull
from embank.store.schema import DATABASE
from embank.system.sqlite import Readers, connect, transaction


class Database:
    """`bank.db`. Any number of threads may read at once; changes take turns."""

    def __init__(self, root: Path, *, read_only: bool) -> None:
        self.root = root
        self.read_only = read_only
        self.readers = Readers(root / DATABASE)
        self._turn = threading.RLock()
        with translated_errors(root):
            self._writer = None if read_only else connect(root / DATABASE)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the database."""
        with translated_errors(self.root), self.readers.read() as connection:
            yield connection

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """This process's one writing connection, for one thread at a time; no transaction is begun."""
        if self._writer is None:
            raise BankReadOnly(f"{self.root} was opened read-only", path=str(self.root))
        with self._turn, translated_errors(self.root):
            yield self._writer

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is durable at the end, or nothing happened."""
        with self.changing() as connection, transaction(connection):
            yield connection

    def release(self) -> None:
        """Give back the pages that connections keep, some 2 MB; one that is in use keeps its own. Nobody is waited for.

        They grow with the database, and so with what was deleted, up to the connections' bounds.
        """
        self.readers.close()
        if self._writer is not None and self._turn.acquire(blocking=False):
            try:
                self._writer.execute("PRAGMA shrink_memory")
            finally:
                self._turn.release()

    def close(self) -> None:
        """Close every connection that is not lent. May be called twice."""
        with self._turn:
            self.readers.close()
            if self._writer is not None:
                self._writer.close()


@contextmanager
def translated_errors(root: Path) -> Iterator[None]:
    """Say what SQLite's and the kernel's errors mean for the bank."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
            raise _full(root, error) from error
        raise
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise BankDamaged(f"{root / DATABASE}: {error}: restore the bank from a backup") from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(root, error) from error
        raise


def _full(root: Path, error: Exception) -> StorageFull:
    return StorageFull(
        f"no room left on the disk of {root}: the last batch was not kept, all that was acknowledged is safe; "
        f"make room and run the same command again ({error})",
        path=str(root),
    )

"""The database of an open bank: who may read, who may write, and what SQLite's errors mean for the bank."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embank.errors import BankDamaged, BankReadOnly, StorageFailed, StorageFull, StoreError
from embank.store.schema import DATABASE
from embank.system.log import get_logger
from embank.system.sqlite import BUSY_TIMEOUT_S, Readers, connect, transaction

_log = get_logger(__name__)


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

    def give_back(self) -> tuple[int, int]:
        """Give the disk the pages that became free, where they are a good part of the file; writers wait meanwhile.

        Returns by how many bytes the file shrank, and how many bytes in it are free, for what is written next. Raises
        nothing: where the disk has no room to write the file anew, all of them stay in it.
        """
        try:
            with self.changing() as connection:
                before, free = _sizes(connection)
                if free >= _WORTH_BYTES and free >= _WORTH_SHARE * before and self._has_room(before - free):
                    connection.execute("VACUUM")
                after, free = _sizes(connection)
                # The file itself is cut, and what went through the log given back, where no reader needs it as it was.
                connection.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                connection.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
                return before - after, free
        except (StoreError, OSError, sqlite3.Error) as error:
            _log.warning("free pages of %s stay in it: %s", self.root / DATABASE, error)
            return 0, 0

    def _has_room(self, size: int) -> bool:
        """Whether the file can be written anew: once beside it, and once into its log."""
        return shutil.disk_usage(self.root).free > 2 * size + _ROOM_BYTES

    def close(self) -> None:
        """Close every connection that is not lent. May be called twice."""
        with self._turn:
            self.readers.close()
            if self._writer is not None:
                self._writer.close()


def _sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the whole file, its log brought into it, and of the free pages in it."""
    pages, free, page_bytes = (
        int(connection.execute(f"PRAGMA {each}").fetchone()[0])
        for each in ("page_count", "freelist_count", "page_size")
    )
    return pages * page_bytes, free * page_bytes


_WORTH_SHARE = 0.25
"""So much of the file must be free for it to be written anew: else that takes longer than what it frees is worth."""

_WORTH_BYTES = 1_048_576
_PATIENCE_MS = 200
_BATCH = "the last batch was not kept, all that was acknowledged is safe"
_ROOM_BYTES = 1_048_576
"""With less than this SQLite's errors of reading and writing, which don't say why, are put down to a full disk."""


@contextmanager
def translated_errors(root: Path, *, place: Path | None = None, kept: str = _BATCH) -> Iterator[None]:
    """Say what SQLite's and the kernel's errors mean for the bank at `root`.

    `place` is where was written, by default the bank, and `kept` what has become of that.
    """
    try:
        yield
    except sqlite3.Error as error:
        meant = _of_sqlite(error, root, place or root, kept)
        if meant is None:
            raise
        raise meant from error
    except OSError as error:
        meant = meaning(error.errno, error, place or root, kept)
        if meant is None:
            raise
        raise meant from error


def meaning(number: int | None, error: Exception, place: Path, kept: str) -> StoreError | None:
    """What the kernel's error of that number means; `None` where it speaks for itself."""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"no room left on the disk of {place}: {kept}; make room and run the same command again ({error})",
            path=str(place),
        )
    if number == errno.EIO:
        return StorageFailed(
            f"the disk of {place} fails ({error}): {kept}; see what the system's log says of it (dmesg), and run the "
            f"same command again once it works",
            path=str(place),
        )
    if number == errno.EROFS:
        return BankReadOnly(f"the disk of {place} can't be written: open the bank read-only", path=str(place))
    return None


def _of_sqlite(error: sqlite3.Error, root: Path, place: Path, kept: str) -> StoreError | None:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the module's own errors have none
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        words = f"{root / DATABASE}: {error}: `embank verify` tells more; restore the bank from a backup"
        return BankDamaged(words, path=str(root))
    if code == sqlite3.SQLITE_READONLY:
        return meaning(errno.EROFS, error, place, kept)
    if code == sqlite3.SQLITE_FULL:
        return meaning(errno.ENOSPC, error, place, kept)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return meaning(errno.ENOSPC if is_full(place) else errno.EIO, error, place, kept)
    return None


def is_full(place: Path) -> bool:
    """Whether the disk of a place has no room worth speaking of."""
    try:
        return shutil.disk_usage(place).free < _ROOM_BYTES
    except OSError:
        return False

"""A bank on the local disk: the directory, its lock, its database, its collections.

The order of a change is always the same: vectors are appended and synchronised, then one SQLite transaction refers to
them. Views are derived afterwards. So at any instant the database alone says what exists.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embank.errors import BankDamaged, BankReadOnly, StorageFull
from embank.events.stream import Stream
from embank.memory.governor import Governor, Registration
from embank.store import audit, collections, schema
from embank.store.collection import StoredCollection
from embank.store.collections import Row
from embank.store.lock import WriterLock
from embank.store.protocol import CollectionInfo
from embank.store.settings import Settings
from embank.store.vectors import Segments
from embank.store.views import LexicalView, ReaderView, ViewPlace, WriterView
from embank.system.clock import Clock, SystemClock
from embank.system.files import Files
from embank.system.sqlite import Readers, connect, transaction


class LocalStore:
    """One open bank. Any number of threads may read; changes take turns."""

    def __init__(
        self,
        root: Path,
        *,
        read_only: bool,
        settings: Settings,
        stream: Stream,
        governor: Governor | None = None,
        files: Files | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open the bank at `root`; without `read_only` it is created if missing and locked against other writers."""
        self.root = root
        self.read_only = read_only
        self.settings = settings
        self.stream = stream
        self._governor = governor
        self.files = files or Files()
        self.clock = clock or SystemClock()
        self._turn = threading.RLock()
        self._collections: dict[str, StoredCollection] = {}
        self._lock: WriterLock | None = None
        self._writer: sqlite3.Connection | None = None
        self._registrations: list[Registration] = []
        if read_only:
            schema.check_format(root)
        else:
            self._lock = self._acquire()
        self.readers = Readers(root / schema.DATABASE)
        try:
            with self._sqlite_errors():
                if not read_only:
                    self._writer = connect(root / schema.DATABASE)
                with self.readers.read() as connection:
                    self._bank = schema.bank_id(connection)
        except BaseException:
            self.close()
            raise

    def collection(self, name: str) -> StoredCollection:
        """The collection of that name; it comes into being with its first document."""
        collections.check_name(name)
        with self._turn:
            if name not in self._collections:
                self._collections[name] = StoredCollection(self, name)
            return self._collections[name]

    def collections(self) -> list[CollectionInfo]:
        """What is recorded of each collection, by name. Reads no documents."""
        with self.reading() as connection:
            return [row.info for row in collections.every(connection)]

    def audit(self, *, limit: int = 100) -> list[audit.AuditRow]:
        """The latest acts on record, newest first."""
        with self.reading() as connection:
            return audit.read(connection, limit=limit)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the database."""
        with self._sqlite_errors(), self.readers.read() as connection:
            yield connection

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """This process's one writing connection, for one thread at a time; no transaction is begun."""
        if self._writer is None:
            raise BankReadOnly(f"{self.root} was opened read-only", path=str(self.root))
        with self._turn, self._sqlite_errors():
            yield self._writer

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is durable at the end, or nothing happened."""
        with self.changing() as connection, transaction(connection):
            yield connection

    def segments(self, row: Row) -> Segments:
        """The vector files of a collection, cut to the recorded mark where this process is the writer."""
        codec = row.codec()
        if codec is None:
            raise BankDamaged(f"collection {row.info.name!r} has vectors but no recorded dimension")
        segments = Segments(self._directory("vectors", row), codec, files=self.files)
        if not self.read_only:
            segments.cut(row.slots)
        return segments

    def lexical_view(self, row: Row) -> LexicalView:
        """The lexical view of a collection, as a writer or as a reader."""
        place = ViewPlace(
            path=self._directory("views", row) / "lexical",
            name=f"{self._bank}:{row.key}:{row.info.generation}",
            collection=row.key,
            collection_name=row.info.name,
        )
        writer_bytes = self.settings.lexical_writer_bytes
        if self.read_only:
            return ReaderView(place, writer_bytes=writer_bytes)
        view = WriterView(
            place,
            self.readers,
            files=self.files,
            clock=self.clock,
            stream=self.stream,
            step_rows=self.settings.lexical_rows,
            writer_bytes=writer_bytes,
        )
        if self._governor is not None:
            self._registrations.append(self._governor.register(view))
        return view

    def close(self) -> None:
        """Close every file and give the lock up. May be called twice."""
        with self._turn:
            for collection in self._collections.values():
                collection.close()
            self._collections.clear()
            for registration in self._registrations:
                registration.close()
            self._registrations.clear()
            if hasattr(self, "readers"):
                self.readers.close()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _acquire(self) -> WriterLock:
        """Lock the bank, then make what is missing of it: two processes that create it at once take turns."""
        if (self.root / "FORMAT").exists():
            schema.check_format(self.root)
            return WriterLock(self.root / "LOCK")
        schema.check_place(self.root)
        self.files.make_directory(self.root, mode=0o700)
        lock = WriterLock(self.root / "LOCK")
        try:
            with self._sqlite_errors():
                schema.create(self.root, files=self.files)
        except BaseException:
            lock.close()
            raise
        return lock

    def _directory(self, kind: str, row: Row) -> Path:
        return self.root / kind / f"{row.key}-{row.info.generation}"

    @contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        """Say what SQLite's and the kernel's errors mean for the bank."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise _full(self.root, error) from error
            raise
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise BankDamaged(f"{self.root / schema.DATABASE}: {error}: restore the bank from a backup") from error
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(self.root, error) from error
            raise


def _full(root: Path, error: Exception) -> StorageFull:
    return StorageFull(
        f"no room left on the disk of {root}: the last batch was not kept, all that was acknowledged is safe; "
        f"make room and run the same command again ({error})",
        path=str(root),
    )

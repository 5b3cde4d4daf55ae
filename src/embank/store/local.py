"""A bank on the local disk: the directory, its lock, its database, its collections.

The order of a change is always the same: vectors are appended and synchronised, then one SQLite transaction refers to
them. Views are derived afterwards. So at any instant the database alone says what exists.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from embank.cache.weighed import WeighedCache
from embank.errors import CollectionNotFound
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.records import check_name
from embank.store import audit, checksums, collections, dropping, manifest, migration, schema, wording
from embank.store.collection import StoredCollection
from embank.store.columns import Column
from embank.store.database import Database, translated_errors
from embank.store.dropping import OnDropProgress
from embank.store.hot.settings import Settings as HotSettings
from embank.store.index.backend import backend
from embank.store.index.plans import Ask
from embank.store.index.settings import Settings as IndexSettings
from embank.store.lock import WriterLock
from embank.store.metric import Metric
from embank.store.protocol import CollectionInfo
from embank.store.reports import DropReport
from embank.store.settings import Settings
from embank.store.shared import Shared
from embank.store.words import Language
from embank.system.clock import Clock, SystemClock
from embank.system.files import Files


class LocalStore:
    """One open bank. Any number of threads may read; changes take turns."""

    def __init__(
        self,
        root: Path,
        *,
        read_only: bool,
        settings: Settings,
        index: IndexSettings | None = None,
        hot: HotSettings | None = None,
        ask: Ask | None = None,
        stream: Stream,
        governor: Governor | None = None,
        files: Files | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open the bank at `root`; without `read_only` it is created if missing and locked against other writers.

        `ask` embeds the questions with which an index is chosen. Raises `MissingExtra` where `index` names a kind whose
        library is not installed.
        """
        index = index or IndexSettings()
        if index.kind not in {"auto", "exact"}:
            backend(index.kind).require(index)
        self.root = root
        files = files or Files()
        self._guard = threading.Lock()
        self._collections: dict[str, StoredCollection] = {}
        with ExitStack() as opened:
            self.lock = None if read_only else _lock(root, files)
            if self.lock is not None:
                opened.callback(self.lock.close)
            else:
                schema.check_format(root)
            self.database = Database(root, read_only=read_only)
            opened.callback(self.database.close)
            clock = clock or SystemClock()
            if not read_only:
                with self.database.changing() as connection:
                    migration.bring(root, connection, files=files, now=clock.now())
                    checksums.add_column(connection)
            with self.database.reading() as connection:
                migration.check_readable(root, connection)
                bank = schema.bank_id(connection)
            columns: WeighedCache[Column] = WeighedCache(
                "filter columns", _columns_bytes(settings, governor), governor=governor, clock=clock, stream=stream
            )
            opened.callback(columns.close)
            self._shared = Shared(
                bank, self.database, settings, stream, files, clock, governor, index, ask, hot or HotSettings(), columns
            )
            if not read_only:
                dropping.remove_left(self._shared)
                for info in self.collections():  # where a compaction, or the removal of replaced vectors, was cut short
                    self.collection(info.name).undo_compaction()
                    self.collection(info.name).tidy()
            self._closing = opened.pop_all()

    def collection(self, name: str, *, metric: Metric | None = None) -> StoredCollection:
        """The collection of that name; it comes into being with its first document.

        Raises `MetricMismatch` where it compares vectors by another metric than `metric`.
        """
        check_name(name)
        with self._guard:
            if name not in self._collections:
                self._collections[name] = StoredCollection(self._shared, name)
            found = self._collections[name]
            if metric is not None:
                found.want(metric)
            return found

    def drop(self, name: str, *, dry_run: bool = False, on_progress: OnDropProgress | None = None) -> DropReport:
        """Take a collection out of the bank, and remove all of it from the disk; `Dropper.run` has the rules.

        Handles of it raise `CollectionNotFound` from then on. With `dry_run` only tell what would go.
        """
        if self.info(name) is None:  # no handle is kept of what is not there
            raise CollectionNotFound(f"there is no collection {name!r} in {self.root}", name=name)
        collection = self.collection(name)
        dropper = collection.dropper(on_progress)
        return dropper.plan() if dry_run else dropper.run(lambda: self._forget(collection))

    def _forget(self, collection: StoredCollection) -> None:
        with self._guard:
            if self._collections.get(collection.name) is collection:
                del self._collections[collection.name]

    def set_language(self, name: str, language: Language) -> None:
        """Have the words of a collection cut by `language`; it is made where it does not exist. On record.

        Its lexical view is built anew with the next search, which waits for it, unless that is its language already.
        Raises `BankReadOnly` where it is not.
        """
        with self.database.reading() as connection:
            row = collections.find(connection, name)
            if row is not None and wording.language(connection, row.key) == language:
                return
        self.collection(name).ensure(dtype=self._shared.settings.dtype)
        with self.database.transaction() as connection:
            row, now = collections.find(connection, name), self._shared.clock.now()
            if row is not None and wording.change(connection, row, language, now=now):
                audit.record(connection, "set language", name, at=now, language=language)

    def info(self, name: str) -> CollectionInfo | None:
        """What is recorded of the collection of that name; `None` where there is none. One row is read, none kept."""
        check_name(name)
        with self.database.reading() as connection:
            row = collections.find(connection, name)
        return None if row is None else row.info

    def collections(self) -> list[CollectionInfo]:
        """What is recorded of each collection, by name. Reads no documents."""
        with self.database.reading() as connection:
            return [row.info for row in collections.every(connection)]

    def audit(self, *, limit: int = 100) -> list[audit.AuditRow]:
        """The latest acts on record, newest first."""
        with self.database.reading() as connection:
            return audit.read(connection, limit=limit)

    def on_record(self, act: str, **detail: object) -> None:
        """Write a row of the audit for an act that changes no collection; durable when it returns."""
        with self.database.transaction() as connection:
            audit.record(connection, act, None, at=self._shared.clock.now(), **detail)

    def close(self) -> None:
        """Close every file and give the lock up. May be called twice."""
        with self._guard:
            open_ones, self._collections = list(self._collections.values()), {}
        with self._closing:
            for collection in open_ones:
                collection.close()


def _columns_bytes(settings: Settings, governor: Governor | None) -> int:
    """What columns may hold. Without a governor there is no budget to take a share of: a share is no limit."""
    if not settings.filter_columns:
        return 0
    return settings.filter_columns_limit.resolve(1 << 62 if governor is None else governor.budget_bytes)


def _lock(root: Path, files: Files) -> WriterLock:
    """Lock the bank, then make what is missing of it: two processes that create it at once take turns."""
    is_there = (root / "FORMAT").exists()
    if is_there:
        schema.check_format(root)
    else:
        schema.check_place(root)
    with translated_errors(root), ExitStack() as opened:
        if not is_there:
            files.make_directory(root, mode=0o700)
            files.sync_directory(root.absolute().parent)
        lock = WriterLock(root / "LOCK")
        opened.callback(lock.close)
        if not is_there:
            schema.create(root, files=files)
        # A writer that was killed may have had no time to synchronise what it made or removed here.
        for folder in (root, root / "vectors", root / "views"):
            if folder.exists():
                files.sync_directory(folder)
        manifest.drop(root, files=files)
        opened.pop_all()
    return lock

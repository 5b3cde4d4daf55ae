"""Compaction: what is alive is copied into a new generation beside the one in use, compared, and put in its place.

Nothing is embedded and no document changes, so that protected collections are compacted, too. Passages keep their
order, and answers stay the same. Searches and writes go on meanwhile; only the last window and the swap make writers
wait.

However it ends, there is nothing to be repaired: an error or Ctrl-C removes the copy, and after a kill the next opening
for writing does. A copy is made in seconds, so that none is kept to go on with.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from embank.errors import CollectionNotFound, EmbankError, StorageFull, StoreError
from embank.events.kinds import CompactionFinished, CompactionProgressed, CompactionStarted, CompactionUndone
from embank.memory.priority import bulk_work
from embank.store import collections, generations
from embank.store.clone import Clone
from embank.store.collections import Row
from embank.store.generation import OpenGenerations
from embank.store.generations import Filling
from embank.store.index.building import Interrupted
from embank.store.protocol import CollectionInfo, Space
from embank.store.reports import CompactReport
from embank.store.settings import Settings
from embank.store.shadow import Shadows
from embank.store.shared import Shared
from embank.system.log import get_logger

_log = get_logger(__name__)

WINDOW_ROWS = 4_096
WINDOW_BYTES = 4_194_304
"""A window ends at either."""

_LISTED_BYTES = 256
"""What a slot takes beside its vector while its window is copied: numbers in Python, in JSON and in SQLite."""

_WAIT_S = 60.0
_PATIENCE_ROUNDS = 4
"""So many rounds may leave more than half of the one before, until writers are made to wait."""

OnCompactProgress = Callable[[CompactReport], None]
"""Called after every window, in the copying thread, with the live report."""


def is_due(info: CollectionInfo, settings: Settings) -> bool:
    """Whether a collection has so many dead vectors that it should be compacted."""
    return info.dead >= max(settings.compact_least, settings.compact_dead * info.slots)


def undo(shared: Shared, name: str) -> bool:
    """Give up a compaction that was cut short, for its generation to be removed; whether there was one and it is.

    Raises nothing: one that can't be given up now costs disk space until the bank is next opened.
    """
    try:
        with shared.database.changing() as writer:
            row = collections.find(writer, name)
            at = None if row is None else generations.filling(writer, row, "compacting")
            if at is not None:
                with shared.database.transaction() as connection:
                    generations.retire(connection, at, now=shared.clock.now())
    except (EmbankError, OSError, sqlite3.Error) as error:
        _log.warning("a compaction of %r that was cut short still takes room on the disk: %s", name, error)
        return False
    return at is not None


class Compactor:
    """Compacts one collection. For one thread."""

    def __init__(
        self,
        shared: Shared,
        name: str,
        generations_open: OpenGenerations,
        shadows: Shadows,
        *,
        on_progress: OnCompactProgress | None = None,
    ) -> None:
        self._shared = shared
        self._database = shared.database
        self._name = name
        self._open = generations_open
        self._shadows = shadows
        self._on_progress = on_progress

    def plan(self) -> CompactReport:
        """What there is to do. Changes nothing."""
        with self._database.reading() as connection:
            return self._report(self._found(connection))

    def run(self) -> CompactReport:
        """Compact it, unless nothing in it is dead. Whatever is raised, the collection is as it was.

        Raises `CollectionNotFound`, `BankReadOnly`, `StorageFull`, `BudgetExceeded`, and `StoreError` while a
        re-embedding is not finished or another thread is at work.
        """
        clock = self._shared.clock
        started = clock.monotonic()
        with self._shadows.alone():
            row, at, report = self._begin()
            if at is None:
                return report
            self._shared.stream.publish(CompactionStarted(self._name, row.slots, row.info.chunks))
            try:
                self._rebuild(row, at, report, started)
            except BaseException as error:
                self._give_up(error)
                raise
        self._shadows.tidy()
        report.left_bytes = self._shared.disk_bytes(row)
        report.bytes_after = self._shared.disk_bytes(at.row)
        report.seconds = clock.monotonic() - started
        self._shared.stream.publish(
            CompactionFinished(
                collection=self._name,
                sequence=report.sequence or 0,
                slots_before=report.slots_before,
                slots_after=report.slots_after,
                bytes_before=report.bytes_before,
                bytes_after=report.bytes_after,
                writers_waited_s=report.writers_waited_s,
                seconds=report.seconds,
            )
        )
        return report

    def _begin(self) -> tuple[Row, Filling | None, CompactReport]:
        """Begin a generation, where anything is dead."""
        with self._database.changing() as writer:
            row = self._found(writer)
            report = self._report(row)
            if not row.info.dead:
                return row, None, report
            if generations.filling(writer, row) is not None:
                raise StoreError(
                    f"a re-embedding of {self._name!r} is not finished, and it leaves nothing dead behind either: go "
                    f"on with it (`embank reembed {self._name}`) or throw it away (with --abandon)",
                    collection=self._name,
                )
            self._check_room(row, report)
            self._shared.bring_format(2, writer)
            if undo(self._shared, self._name):  # of a run that failed so badly that it could not be undone then
                self._shadows.tidy()
            elif generations.filling(writer, row, "compacting") is not None:
                raise StoreError(f"an earlier compaction of {self._name!r} can't be undone: see the log for the reason")
            info, now = row.info, self._shared.clock.now()
            space = Space(info.fingerprint or "", info.dimension or 0, info.model)
            with self._database.transaction() as connection:
                generations.begin(connection, row, space, dtype=info.dtype, now=now, state="compacting")
                at = generations.filling(connection, row, "compacting")
        report.outcome = "under way"
        return row, at, report

    def _rebuild(self, row: Row, at: Filling, report: CompactReport, started: float) -> None:
        codec = at.row.codec()
        record_bytes = 1 if codec is None else codec.record.itemsize
        rows = max(min(WINDOW_ROWS, WINDOW_BYTES // record_bytes), 1)
        report.reserved_bytes = rows * (record_bytes + _LISTED_BYTES)
        with self._open.using(row) as source, self._open.using(at.row, in_use=False) as copy:
            clone = Clone(self._shared, at, source=source, copy=copy, rows=rows)
            self._copy(clone, report, rows, started)
            self._replace(clone, report)
            self._open.put_in_use(at.row)
            try:
                clone.catch_up(lag_rows=1)
                clone.close_view()
            except EmbankError as error:  # the swap stands, and the next search catches up
                _log.warning("the lexical view of %r lags behind: %s", self._name, error)

    def _copy(self, clone: Clone, report: CompactReport, rows: int, started: float) -> None:
        """Copy in rounds, each with less to do than the last.

        Where writers keep bringing in more than that, it ends with something left: for that they have to wait. Once
        little is left, the vector index is made, so that no search behind the swap has to scan everything.
        """
        patience, ahead, indexed = _PATIENCE_ROUNDS, 0, False
        while patience:
            target = clone.slots()
            while clone.done_slots < target:
                with bulk_work(), self._reserved(report):
                    report.copied += clone.window()
                clone.catch_up(lag_rows=self._shared.settings.lexical_rows)
                self._progress(report, self._shared.clock.monotonic() - started)
            left = clone.slots() - clone.done_slots
            if left <= rows and indexed:
                break
            if left <= rows:  # and what comes meanwhile is copied in another round
                self._index(clone)
                indexed = True
                continue
            if ahead and left > ahead // 2:
                patience -= 1
            ahead = left
        clone.copy_digests()
        clone.catch_up(lag_rows=1)
        with bulk_work(), self._reserved(report):
            clone.verify()
        clone.count()

    def _index(self, clone: Clone) -> None:
        """Make the vector index, where the settings want one."""
        try:
            with bulk_work():
                clone.refresh_index()
        except Interrupted as error:
            raise StoreError(f"{self._name!r} was closed while it was compacted") from error
        except (EmbankError, OSError) as error:  # it can do without, as before: it is made when it is searched
            _log.warning("the vectors of %r are scanned after its compaction: %s", self._name, error)

    def _replace(self, clone: Clone, report: CompactReport) -> None:
        """Copy what is left, compare it, and swap, while writers wait. Memory is there before they do."""
        clock = self._shared.clock
        with self._reserved(report), self._database.changing():
            waiting = clock.monotonic()
            while copied := clone.window():
                report.copied += copied
            clone.verify()
            before, after = clone.swap()
            report.writers_waited_s = clock.monotonic() - waiting
        report.sequence, report.outcome = after.sequence, "compacted"
        report.documents, report.passages = after.info.documents, after.info.chunks
        report.slots_before, report.slots_after = before.slots, after.slots

    def _give_up(self, error: BaseException) -> None:
        if undo(self._shared, self._name):
            self._shadows.tidy()
            reason = type(error).__name__ if isinstance(error, Exception) else "interrupted"
            self._shared.stream.publish(CompactionUndone(self._name, reason))

    def _found(self, connection: sqlite3.Connection) -> Row:
        row = collections.find(connection, self._name)
        if row is None:
            raise CollectionNotFound(f"there is no collection {self._name!r} in {self._database.root}")
        return row

    def _report(self, row: Row) -> CompactReport:
        info, held = row.info, self._shared.disk_bytes(row)
        return CompactReport(
            collection=info.name,
            documents=info.documents,
            passages=info.chunks,
            slots_before=info.slots,
            slots_after=info.chunks,
            bytes_before=held,
            bytes_after=round(held * info.chunks / info.slots) if info.slots else held,
            due=is_due(info, self._shared.settings),
            outcome="would compact" if info.dead else "nothing to do",
        )

    def _check_room(self, row: Row, report: CompactReport) -> None:
        """Raise unless the disk has room for the copy beside what is there."""
        codec = row.codec()
        wanted = max(report.bytes_after, 0 if codec is None else codec.record.itemsize * row.info.chunks)
        free = self._shared.files.free_bytes(self._database.root)
        if free < wanted:
            raise StorageFull(
                f"compacting {self._name!r} needs some {wanted / 1e6:,.1f} MB beside what is there, and the disk of "
                f"{self._database.root} has {free / 1e6:,.1f} MB: make room first; the collection is as it was",
                path=str(self._database.root),
                wanted_bytes=wanted,
                free_bytes=free,
            )

    def _reserved(self, report: CompactReport) -> AbstractContextManager[object]:
        governor = self._shared.governor
        if governor is None:
            return nullcontext()
        return governor.reserve("a window of vectors", report.reserved_bytes, wait_s=_WAIT_S)

    def _progress(self, report: CompactReport, seconds: float) -> None:
        if self._shared.governor is not None:
            self._shared.governor.check()
        report.seconds = seconds
        self._shared.stream.publish(CompactionProgressed(self._name, report.copied, report.passages, seconds))
        if self._on_progress is not None:
            self._on_progress(report)

"""Dropping a collection: one transaction takes it out of the bank, on record, and what is left is removed behind it.

From that transaction on the collection is gone for everybody; before it, nothing was changed. Removing its rows, in
small steps that let writers in between, and then its files may be cut short at any moment: what is left is on the list
of `dropped`, and goes when the bank is next opened for writing. Readers with an older state finish with it: the
database keeps that state for them, and files that are open stay readable.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from embank.errors import CollectionNotFound, EmbankError
from embank.events.kinds import CollectionDropped
from embank.store import audit, collections, documents, dropped, generations, reductions, schema
from embank.store.collections import Row, slots_key
from embank.store.dropped import Leftover
from embank.store.generation import OpenGenerations
from embank.store.hot.hot import HotTier
from embank.store.presence import Presence
from embank.store.reports import DropReport
from embank.store.shadow import Shadows
from embank.store.shared import Shared
from embank.system.log import get_logger

_log = get_logger(__name__)

STEP_DOCUMENTS = 500
"""Documents whose rows go in one commit: for so long, some 20 ms, writers wait."""

_READERS_WAIT_S = 30.0
"""So long files wait for searches of this process that began before. Then they are left to the next opening."""

OnDropProgress = Callable[[float, str], None]
"""Called after every step of the removal with how much is done, 0 to 1, and words."""


class Dropper:
    """Drops one collection. For one thread and one run."""

    def __init__(
        self,
        shared: Shared,
        presence: Presence,
        generations_open: OpenGenerations,
        shadows: Shadows,
        hot: HotTier,
        *,
        on_progress: OnDropProgress | None = None,
    ) -> None:
        self._shared = shared
        self._database = shared.database
        self._presence = presence
        self._open = generations_open
        self._shadows = shadows
        self._hot = hot
        self._on_progress = on_progress

    def plan(self) -> DropReport:
        """What would go. Changes nothing; a protected collection refuses this, too."""
        with self._database.reading() as connection:
            row = self._row(connection)
            return self._report(row, generations.every(connection, row), dry_run=True)

    def run(self, forget: Callable[[], None]) -> DropReport:
        """Drop it. `forget` is called once it is gone, before anybody can make another one of its name.

        Raises `CollectionNotFound`, `ProtectedCollectionError`, `BankReadOnly`, and `StoreError` while another thread
        re-embeds or compacts it; then nothing was changed. What fails behind that is logged: it costs disk space.
        """
        clock = self._shared.clock
        started = clock.monotonic()
        with self._shadows.alone():
            with self._database.changing() as writer:
                row = self._row(writer)
                report = self._report(row, generations.every(writer, row), dry_run=False)
                with self._database.transaction() as connection:
                    leftover = _strike_out(connection, row, now=self._shared.clock.now())
                self._presence.dropped = True
                self._hot.discard()
                forget()
            self._shared.stream.publish(
                CollectionDropped(report.collection, report.documents, report.passages, report.file_bytes)
            )
            is_closed = self._open.end(wait_s=_READERS_WAIT_S)
            self._hot.close()
            report.left = not remove(self._shared, leftover, files=is_closed, on_progress=self._on_progress)
        report.database_bytes, report.reusable_bytes = self._database.give_back()
        report.seconds = clock.monotonic() - started
        return report

    def _row(self, connection: sqlite3.Connection) -> Row:
        row = self._presence.find(connection)
        if row is None:
            raise CollectionNotFound(
                f"there is no collection {self._presence.name!r} in {self._database.root}", name=self._presence.name
            )
        if row.info.protected:
            raise self._presence.refused(row, "drop")
        return row

    def _report(self, row: Row, numbers: list[int], *, dry_run: bool) -> DropReport:
        info = row.info
        return DropReport(
            collection=info.name,
            dry_run=dry_run,
            documents=info.documents,
            passages=info.chunks,
            text_bytes=info.text_bytes,
            file_bytes=sum(self._shared.generation_bytes(row.key, number) for number in numbers),
        )


def remove_left(shared: Shared) -> None:
    """Remove what is left of dropped collections. To be called before any collection is opened. Raises nothing."""
    try:
        with shared.database.reading() as connection:
            found = dropped.left(connection)
    except (EmbankError, OSError, sqlite3.Error) as error:
        _log.warning("it can't be told what dropped collections left on the disk: %s", error)
        return
    for leftover in found:
        remove(shared, leftover)


def remove(
    shared: Shared, leftover: Leftover, *, files: bool = True, on_progress: OnDropProgress | None = None
) -> bool:
    """Remove the rows of a dropped collection, in steps, and then its `files`; whether all of it went.

    Raises nothing of its own: what is left costs disk space until the bank is next opened for writing.
    """
    try:
        with shared.database.reading() as connection:
            total = connection.execute(
                "SELECT COUNT(*) FROM documents WHERE collection = ?", (leftover.key,)
            ).fetchone()[0]
        done = 0
        while (step := _erase_step(shared, leftover)) is not None:
            done += step
            if on_progress is not None:
                on_progress(done / max(total, 1), f"{done:,} of {total:,} documents removed from the disk")
        if not files:
            _log.warning("files of the dropped collection %r stay until the bank is next opened", leftover.name)
            return False
        with shared.database.changing() as writer:
            for number in leftover.generations:
                shared.remove_files(leftover.key, number)
            if collections.find(writer, leftover.name) is None:
                shared.remove_accesses(leftover.name)
            with shared.database.transaction() as connection:
                dropped.forget(connection, leftover)
    except (EmbankError, OSError, sqlite3.Error) as error:
        _log.warning("the dropped collection %r still takes room on the disk: %s", leftover.name, error)
        return False
    return True


def _strike_out(connection: sqlite3.Connection, row: Row, *, now: float) -> Leftover:
    """Take a collection out of the bank, on record; what is then to be removed."""
    info = row.info
    leftover = dropped.record(
        connection, row.key, info.name, created=info.created, generations=generations.every(connection, row)
    )
    if documents.has_generations(connection):
        connection.execute("DELETE FROM generations WHERE collection = ?", (row.key,))
    reductions.forget_all(connection, row.key)
    for table in ("tunings", "languages"):
        if schema.has_table(connection, table):
            connection.execute(f"DELETE FROM {table} WHERE collection = ?", (row.key,))  # noqa: S608 -- our own names
    connection.execute("DELETE FROM collections WHERE id = ?", (row.key,))
    audit.record(
        connection,
        "drop",
        info.name,
        at=now,
        documents=info.documents,
        chunks=info.chunks,
        text_bytes=info.text_bytes,
        sequence=info.sequence,
        fingerprint=info.fingerprint,
        created=info.created,
    )
    return leftover


def _erase_step(shared: Shared, leftover: Leftover) -> int | None:
    """Remove some of its rows, and return how many documents were among them; `None` when there are no more.

    Passages go before documents: a new document may get the number of one that is gone, and must not get its passages.
    """
    with shared.database.transaction() as connection:
        for number in leftover.generations:
            if generations.erase_slots(connection, slots_key(leftover.key, number)):
                return 0
        rows = connection.execute(
            "SELECT id FROM documents WHERE collection = ? LIMIT ?", (leftover.key, STEP_DOCUMENTS)
        ).fetchall()
        if not rows:
            return None
        doomed = json.dumps([key for (key,) in rows])
        if documents.has_generations(connection):
            connection.execute("DELETE FROM digests WHERE document IN (SELECT value FROM json_each(?))", (doomed,))
        connection.execute("DELETE FROM documents WHERE id IN (SELECT value FROM json_each(?))", (doomed,))
        return len(rows)

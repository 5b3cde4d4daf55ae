"""Checking a bank, open elsewhere or not: nothing is written, and nobody is kept waiting.

The database is read in one state of it. Segment files below the recorded marks never change, so they are read behind
that; a collection whose vectors were replaced meanwhile is looked at again.

What is not found: texts have no checksums, so that one where other letters came of it passes; nor have vectors that a
former Embank wrote (`unsealed` in the report), which only must be possible ones. In a backup every bit is covered
(`manifest`).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from embank.errors import BankDamaged
from embank.store import checksums, collections, documents, filecheck, generations, manifest, rowcheck, schema
from embank.store.checksums import Compared
from embank.store.codec import Stored
from embank.store.collections import Row
from embank.store.lexical import Mark
from embank.store.reports import Finding, VerifyReport
from embank.system.files import Files
from embank.system.sqlite import connect, snapshot

OnVerifyProgress = Callable[[float, str], None]
"""Called with how much is done, 0 to 1, and what is being read."""

_TRIES = 3


def verify(
    root: Path, *, full: bool = False, files: Files | None = None, on_progress: OnVerifyProgress | None = None
) -> VerifyReport:
    """Check the bank at `root`; `full` also checks the database's indexes and decodes every text.

    Raises `BankNotFound` and `FormatTooNew`; what is damaged is in the report.
    """
    started = time.monotonic()
    try:
        schema.check_format(root)
    except BankDamaged as error:
        found = (Finding("damaged", None, "FORMAT", error.message),)
        return VerifyReport(str(root), full, 0, 0, 0, 0, 0, found, time.monotonic() - started)
    check = _Check(root, full=full, files=files or Files(), on_progress=on_progress)
    findings = list(check.run())
    rows = check.rows
    return VerifyReport(
        path=str(root),
        full=full,
        collections=len(rows),
        documents=sum(row.info.documents for row in rows),
        vectors=sum(row.slots for row in rows),
        unsealed=check.unsealed,
        bytes=check.done_bytes,
        findings=tuple(findings),
        seconds=time.monotonic() - started,
    )


class _Check:
    def __init__(self, root: Path, *, full: bool, files: Files, on_progress: OnVerifyProgress | None) -> None:
        self.rows: list[Row] = []
        self.done_bytes = 0
        self.unsealed = 0
        self._root = root
        self._full = full
        self._files = files
        self._on_progress = on_progress
        self._total_bytes = 1
        self._bank = ""

    def run(self) -> Iterator[Finding]:
        for name in manifest.differing(self._root):
            yield Finding("damaged", None, name, "it is not as it was backed up (its checksum differs)")
        yield from self._database()
        for row in self.rows:
            yield from self._collection_files(row)
        self._tell(0, "done")

    def _database(self) -> Iterator[Finding]:
        path = self._root / schema.DATABASE
        size = path.stat().st_size
        try:
            with closing(self._connect()) as connection, snapshot(connection):
                self.rows = collections.every(connection)
                self._bank = schema.bank_id(connection)
                self._total_bytes = size + sum(_bytes(row) for row in self.rows) or 1
                self._tell(0, f"reading {schema.DATABASE}")
                broken = False
                for finding in rowcheck.pages(connection, full=self._full):
                    broken = True
                    yield finding
                for row in self.rows:
                    self._tell(0, f"counting {row.info.name}")
                    yield from self._rows_of(connection, row, texts=self._full or broken)
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:  # damaged values don't become rows
            yield rowcheck.as_finding(error)
        self._tell(size, f"read {schema.DATABASE}")

    def _rows_of(self, connection: sqlite3.Connection, row: Row, *, texts: bool) -> Iterator[Finding]:
        checks = [rowcheck.collection(connection, row)]
        checks += [rowcheck.passages(connection, each, in_use=each is row) for each in held(connection, row)]
        if texts:
            checks.append(rowcheck.texts(connection, row))
        for check in checks:
            try:
                yield from check
            except sqlite3.DatabaseError as error:
                yield rowcheck.as_finding(error, row.info.name)

    def _collection_files(self, row: Row) -> Iterator[Finding]:
        """Segments and views. Files that are gone because others took their place are no damage."""
        unsealed = self.unsealed
        for left in reversed(range(_TRIES)):
            self.unsealed = unsealed
            try:
                with closing(self._connect()) as connection:
                    rows = held(connection, row)
                found = [finding for each in rows for finding in self._segments(each)]
                found += self._views(row)
                now = self._now(row)
            except sqlite3.DatabaseError as error:
                yield rowcheck.as_finding(error, row.info.name)
                return
            if not found or not left or (now is not None and now.info.generation == row.info.generation):
                yield from found
                return
            if now is None:
                return
            row = now

    def _segments(self, row: Row) -> Iterator[Finding]:
        segments = filecheck.segments_of(self._root, row, self._files)
        if segments is None:
            return
        for number, rows in filecheck.parts(row):
            place = segments.path(number).relative_to(self._root).as_posix()
            self._tell(0, f"reading {place}")
            with closing(self._connect()) as connection:
                compare = partial(self._compare, connection, row)
                for message, slots in filecheck.segment(segments, row, number, rows, compare=compare, full=self._full):
                    ids, count = rowcheck.of_slots(connection, row, json.dumps(slots.tolist()))
                    if count:  # else nothing that is alive is concerned
                        yield Finding("damaged", row.info.name, place, message, ids, count)
            self._tell(segments.offset(rows), f"read {place}")

    def _compare(self, connection: sqlite3.Connection, row: Row, stored: Stored, first_slot: int) -> Compared:
        compared = checksums.compare(connection, row, stored, first_slot=first_slot)
        self.unsealed += len(compared.without)
        return compared

    def _views(self, row: Row) -> Iterator[Finding]:
        for place, message, mark in (
            filecheck.lexical(self._root, self._bank, row),
            filecheck.vector_index(self._root, self._bank, row, self._files),
        ):
            wrong = message or self._ahead(row, mark)
            if wrong is not None:
                yield Finding("derived", row.info.name, place, wrong)

    def _ahead(self, row: Row, mark: Mark | None) -> str | None:
        """What is wrong with a view that has applied more than there is by now."""
        if mark is None or (mark.slots <= row.slots and mark.sequence <= row.sequence):
            return None
        now = self._now(row)
        if now is None or now.info.generation != row.info.generation:
            return None
        if mark.slots <= now.slots and mark.sequence <= now.sequence:
            return None
        return f"it is of a later state (change {mark.sequence:,}) than the bank's own (change {now.sequence:,})"

    def _now(self, row: Row) -> Row | None:
        with closing(self._connect()) as connection:
            return collections.load(connection, row.key)

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self._root / schema.DATABASE, read_only=True)
        connection.text_factory = lambda data: data.decode(errors="backslashreplace")
        return connection

    def _tell(self, read_bytes: int, words: str) -> None:
        self.done_bytes += read_bytes
        if self._on_progress is not None:
            self._on_progress(min(self.done_bytes / self._total_bytes, 1.0), words)


def held(connection: sqlite3.Connection, row: Row) -> list[Row]:
    """The generation in use, and one that is being filled by a re-embedding, if there is one."""
    at = generations.filling(connection, row) if documents.has_generations(connection) else None
    return [row] if at is None else [row, at.row]


def _bytes(row: Row) -> int:
    codec = row.codec()
    return 0 if codec is None else row.slots * codec.record.itemsize

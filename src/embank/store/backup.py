"""Copying a bank while it is written, and putting a copy in its place.

The database is copied within one read transaction, by SQLite's own backup. The segment files that this state refers to
are opened before, so that they stay readable even if a compaction removes them, and copied up to the recorded marks,
below which nothing ever changes. Views are left out: they are built again from the truth.

The copy is made under a temporary name, read again and verified, and renamed: it is there as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from embank.errors import BankDamaged, InvalidInput, StorageFull, StoreError
from embank.store import collections, documents, filecheck, generations, manifest, schema
from embank.store.database import translated_errors
from embank.store.manifest import BLOCK_BYTES
from embank.store.reports import BackupReport, VerifyReport
from embank.store.verify import verify
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.process import start_time
from embank.system.sqlite import connect, snapshot

_log = get_logger(__name__)

OnBackupProgress = Callable[[float, str], None]
"""Called with how much is done, 0 to 1, and what is being done."""

_TRIES = 5
_STEP_PAGES = 256
_COPIED = 0.6
"""How much of the work copying is; the rest is reading it all again."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment file to be copied: open, up to `size` bytes."""

    name: str
    file: BinaryIO
    size: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def back_up(
    source: Path, target: Path, *, files: Files | None = None, on_progress: OnBackupProgress | None = None
) -> BackupReport:
    """Copy the bank at `source`, which may be in use, to `target`, which must not exist; the copy is verified.

    Raises `BankNotFound`, `InvalidInput` for a target that can't be, `StorageFull`, and `BankDamaged` where what was
    copied does not hold together. Whatever is raised, nothing is left at `target` or beside it.
    """
    return _Copy(source, target, files=files or Files(), on_progress=on_progress, sealed=True).run()


def restore(
    source: Path, target: Path, *, files: Files | None = None, on_progress: OnBackupProgress | None = None
) -> BackupReport:
    """Make a bank at `target`, which must not exist, of the backup at `source`; both are verified.

    The backup stays as it is. Raises what `back_up` raises.
    """
    schema.check_format(source)
    differing = manifest.differing(source)
    if differing:
        raise BankDamaged(
            f"{source} is not as it was backed up ({', '.join(differing[:3])}): nothing was restored; "
            f"`embank verify` tells which documents are concerned",
            path=str(source),
            files=differing,
        )
    return _Copy(source, target, files=files or Files(), on_progress=on_progress, sealed=False).run()


class _Copy:
    def __init__(
        self, source: Path, target: Path, *, files: Files, on_progress: OnBackupProgress | None, sealed: bool
    ) -> None:
        self._source = source
        self._target = target
        self._files = files
        self._on_progress = on_progress
        self._sealed = sealed
        self._done_bytes = 0
        self._total_bytes = 1

    def run(self) -> BackupReport:
        started = time.monotonic()
        schema.check_format(self._source)
        self._check_target()
        temporary = self._target.with_name(f".{self._target.name}.{os.getpid()}-{start_time(os.getpid()) or 0:.0f}.tmp")
        self._remove_leftovers()
        kept = "no copy was kept, and the bank is as it was"
        made = temporary
        try:
            with translated_errors(self._source, place=self._target.parent, kept=kept):
                temporary.mkdir(mode=0o700)
                for left in reversed(range(_TRIES)):
                    if self._attempt(temporary, last=not left):
                        break
                report = self._checked(temporary)
                size = self._files.tree_bytes(temporary)
                if self._sealed:
                    manifest.write(temporary, files=self._files)
                for folder, _, _ in os.walk(temporary):
                    self._files.sync_directory(Path(folder))
                self._check_target()
                made = temporary.rename(self._target)
                self._files.sync_directory(self._target.parent)
        except BaseException:
            self._discard(made)
            raise
        return BackupReport(
            source=str(self._source),
            target=str(self._target),
            collections=report.collections,
            documents=report.documents,
            vectors=report.vectors,
            bytes=size,
            seconds=time.monotonic() - started,
        )

    def _check_target(self) -> None:
        if os.path.lexists(self._target):
            raise InvalidInput(f"{self._target} exists: name a place that is free", path=str(self._target))
        if not self._target.parent.is_dir():
            raise InvalidInput(f"there is no folder {self._target.parent}", path=str(self._target))
        if self._target.resolve().is_relative_to(self._source.resolve()):
            raise InvalidInput(f"{self._target} lies in the bank itself", path=str(self._target))

    def _discard(self, made: Path) -> None:
        try:
            self._files.remove_tree(made)
        except OSError as error:  # the first error tells more
            _log.warning("what was copied to %s could not be removed: %s", made, error)

    def _remove_leftovers(self) -> None:
        """What a copy to the same place that was killed has left."""
        for path in self._target.parent.glob(f".{self._target.name}.*-*.tmp"):
            pid, _, started = path.name.removesuffix(".tmp").rpartition(".")[2].partition("-")
            if pid.isdecimal() and f"{start_time(int(pid)) or 0:.0f}" != started:
                self._files.remove_tree(path)

    def _attempt(self, temporary: Path, *, last: bool) -> bool:
        """Copy one state; false when files of it were gone before they could be opened, so that a newer one is due."""
        with ExitStack() as opened:
            connection = opened.enter_context(closing(connect(self._source / schema.DATABASE, read_only=True)))
            with snapshot(connection):
                try:
                    parts = [opened.enter_context(part) for part in self._parts(connection)]
                except FileNotFoundError as error:
                    if last:
                        raise BankDamaged(
                            f"{error.filename} is missing: `embank verify` tells which documents are concerned",
                            path=str(error.filename),
                        ) from error
                    return False
                self._check_room(connection, parts)
                self._copy_database(connection, temporary / schema.DATABASE)
            for part in parts:
                self._copy_part(part, temporary)
        self._files.replace(temporary / "FORMAT", (self._source / "FORMAT").read_bytes())
        return True

    def _parts(self, connection: sqlite3.Connection) -> Iterator[_Part]:
        for row in collections.every(connection):
            at = generations.filling(connection, row) if documents.has_generations(connection) else None
            for each in [row] if at is None else [row, at.row]:
                segments = filecheck.segments_of(self._source, each, self._files)
                if segments is None:
                    continue
                for number, rows in filecheck.parts(each):
                    path = segments.path(number)
                    name = path.relative_to(self._source).as_posix()
                    yield _Part(name, path.open("rb"), segments.offset(rows))

    def _check_room(self, connection: sqlite3.Connection, parts: list[_Part]) -> None:
        (pages,), (page_bytes,) = (
            connection.execute(f"PRAGMA {each}").fetchone() for each in ("page_count", "page_size")
        )
        self._done_bytes, self._total_bytes = 0, pages * page_bytes + sum(part.size for part in parts)
        free = self._files.free_bytes(self._target.parent)
        if free < self._total_bytes:
            raise StorageFull(
                f"the copy needs {self._total_bytes / 1e6:,.1f} MB, and the disk of {self._target.parent} has "
                f"{free / 1e6:,.1f} MB: make room first",
                path=str(self._target),
                wanted_bytes=self._total_bytes,
                free_bytes=free,
            )

    def _copy_database(self, connection: sqlite3.Connection, path: Path) -> None:
        page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
        copied = 0

        def tell(_: int, remaining: int, total: int) -> None:
            nonlocal copied
            step, copied = (total - remaining) * page_bytes - copied, (total - remaining) * page_bytes
            self._tell(step, f"copying {schema.DATABASE}")

        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            # Nobody reads it before it is whole: what a journal is for, the temporary name does.
            copy.execute("PRAGMA journal_mode=OFF")
            copy.execute("PRAGMA synchronous=OFF")
            connection.backup(copy, pages=_STEP_PAGES, progress=tell)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file alone, which can be read where nothing can be written
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._files.sync_data(descriptor)
        finally:
            os.close(descriptor)

    def _copy_part(self, part: _Part, temporary: Path) -> None:
        path = temporary / part.name
        self._files.make_directory(path.parent)
        descriptor = self._files.open_append(path)
        digest, done = hashlib.blake2b(digest_size=32), 0
        try:
            while done < part.size:
                data = part.file.read(min(part.size - done, BLOCK_BYTES))
                if not data:
                    raise BankDamaged(
                        f"{self._source / part.name} is shorter than the {part.size:,} bytes recorded: "
                        f"`embank verify` tells which documents are concerned",
                        path=part.name,
                    )
                self._files.write_at(descriptor, memoryview(data), done)
                digest.update(data)
                done += len(data)
                self._tell(len(data), f"copying {part.name}")
            self._files.sync_data(descriptor)
            if hasattr(os, "posix_fadvise"):  # so that it is read back from the disk
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        if manifest.checksum(path) != digest.hexdigest():
            raise StoreError(f"{part.name} reads differently from what was written: the disk of {self._target} fails")

    def _checked(self, temporary: Path) -> VerifyReport:
        def tell(fraction: float, words: str) -> None:
            if self._on_progress is not None:
                self._on_progress(_COPIED + (1 - _COPIED) * fraction, f"checking the copy: {words}")

        report = verify(temporary, full=True, files=self._files, on_progress=tell)
        if report.damaged:
            finding = report.findings[0]
            raise BankDamaged(
                f"what was copied is damaged ({finding.part}: {finding.message}), so no copy was kept; "
                f"`embank verify --full` tells what is wrong with the bank itself",
                path=str(self._source),
                part=finding.part,
                ids=list(finding.ids),
            )
        return report

    def _tell(self, size: int, words: str) -> None:
        self._done_bytes += size
        if self._on_progress is not None:
            self._on_progress(_COPIED * min(self._done_bytes / self._total_bytes, 1.0), words)

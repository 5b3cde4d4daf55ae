"""Giving checksums to the vectors that have none, as a former Embank wrote them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from embank.store import checksums, collections, filecheck, manifest, schema
from embank.store.database import translated_errors
from embank.store.lock import WriterLock
from embank.store.reports import VerifyReport
from embank.store.verify import OnVerifyProgress, held, verify
from embank.system.files import Files
from embank.system.sqlite import connect, transaction

_WINDOW_ROWS = 16_384


def seal(
    root: Path, *, full: bool = False, files: Files | None = None, on_progress: OnVerifyProgress | None = None
) -> tuple[VerifyReport, int]:
    """Check the bank at `root`, which nobody else may write, and seal its vectors as they are; how many that were.

    Where anything is damaged nothing is sealed, so that no damage is taken for the truth. Stopped, the same call goes
    on. A backup becomes an ordinary bank by it. Raises what `verify` raises, `BankLocked` and `StorageFull`.
    """
    schema.check_format(root)
    files = files or Files()
    with closing(WriterLock(root / "LOCK")):
        report = verify(root, full=full, files=files, on_progress=on_progress)
        if report.damaged or not report.unsealed:
            return report, 0
        with translated_errors(root):
            manifest.drop(root, files=files)
            sealed = _sealed(root, files)
    return replace(report, unsealed=report.unsealed - sealed), sealed


def _sealed(root: Path, files: Files) -> int:
    sealed = 0
    with closing(connect(root / schema.DATABASE)) as connection:
        checksums.add_column(connection)
        for row in [each for one in collections.every(connection) for each in held(connection, one)]:
            segments = filecheck.segments_of(root, row, files)
            if segments is None:
                continue
            for first, records in segments.rows(row.slots).blocks(_WINDOW_ROWS):
                with transaction(connection):
                    sealed += checksums.seal(connection, row, records, first_slot=first)
            segments.close()
    return sealed

"""From a bank's format to a newer one, a step at a time.

A step goes from format N to N + 1. The file FORMAT is raised first, so that nothing older opens what is under way; then
one transaction changes the database, its own number of the format with it. A kill between the two
leaves a database that says it is older than FORMAT: whoever writes the bank next takes the step again from its
beginning. So a step must change the database alone, and no copy of that is needed.

A step that is due "at once" is taken by the process that opens the bank for writing; one that is due "when needed" by
the first act that cannot do without, so that until then an older Embank can still open the bank.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from embank.errors import BankReadOnly
from embank.store import audit, schema
from embank.store.lock import WriterLock
from embank.system.files import Files
from embank.system.sqlite import connect, transaction


@dataclass(frozen=True, slots=True)
class Step:
    """To format `to` from the one before it. `change` is called inside the step's transaction."""

    to: int
    what: str
    change: Callable[[sqlite3.Connection], None]
    due: Literal["at once", "when needed"]


STEPS: tuple[Step, ...] = (
    Step(2, "tables for further generations of a collection", schema.add_generations, "when needed"),
)


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """From which format to which a bank was brought, or with `dry_run` would be, and what each step was about."""

    path: str
    before: int
    after: int
    steps: tuple[str, ...]
    dry_run: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def format_of(connection: sqlite3.Connection) -> int:
    """The format that the database itself has."""
    (number,) = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    return int(number)


def pending(connection: sqlite3.Connection, *, to: int | None = None) -> Sequence[Step]:
    """The steps up to format `to`; without it, up to the last one that is due at once."""
    have = format_of(connection)
    last = max((step.to for step in STEPS if step.due == "at once"), default=0) if to is None else to
    return [step for step in STEPS if have < step.to <= last]


def bring(
    root: Path,
    connection: sqlite3.Connection,
    *,
    files: Files,
    now: float,
    to: int | None = None,
    on_record: bool = True,
) -> None:
    """Take the steps that are `pending`; for the writer, outside any transaction. `on_record`: each is in the audit."""
    for step in pending(connection, to=to):
        if schema.written_format(root) < step.to:
            schema.write_format(root, step.to, files=files)
        with transaction(connection):
            step.change(connection)
            connection.execute("UPDATE meta SET value = ? WHERE key = 'format'", (str(step.to),))
            if on_record:
                audit.record(connection, "migrate", None, at=now, format=step.to, what=step.what)


def check_readable(root: Path, connection: sqlite3.Connection) -> None:
    """Raise `BankReadOnly` where a step is due that only a writer can take."""
    steps = pending(connection)
    if steps:
        raise BankReadOnly(
            f"{root} has format {format_of(connection)} and must be brought to {steps[-1].to} before it can be read: "
            f"run `embank migrate`, or open it for writing once",
            path=str(root),
            format=format_of(connection),
        )


def migrate(root: Path, *, dry_run: bool = False, files: Files | None = None) -> MigrationReport:
    """Bring the bank at `root` to the newest format, also by steps that could wait; nobody may be writing it.

    Stopped, the same call goes on. Raises `BankNotFound`, `FormatTooNew`, `BankLocked`.
    """
    schema.check_format(root)
    files = files or Files()
    lock = None if dry_run else WriterLock(root / "LOCK")
    try:
        with closing(connect(root / schema.DATABASE, read_only=dry_run)) as connection:
            before, steps = format_of(connection), pending(connection, to=schema.FORMAT)
            if not dry_run:
                bring(root, connection, files=files, now=time.time(), to=schema.FORMAT)
    finally:
        if lock is not None:
            lock.close()
    after = steps[-1].to if steps else before
    return MigrationReport(str(root), before, after, tuple(step.what for step in steps), dry_run)

"""A process that opens a bank with an Embank that has one format more, and is killed at the moment named.

python migrator.py BANK before|file|inside|after|never
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path

from embank.events.stream import Stream
from embank.store import migration, schema
from embank.store.local import LocalStore
from embank.store.settings import Settings
from embank.system.files import Files


def die(here: str) -> None:
    if sys.argv[2] == here:
        os.kill(os.getpid(), signal.SIGKILL)


def change(connection: sqlite3.Connection) -> None:
    """A step that adds a column and fills it: run twice, it would fail."""
    connection.execute("ALTER TABLE documents ADD COLUMN length INTEGER NOT NULL DEFAULT 0")
    connection.execute("UPDATE documents SET length = length(text) WHERE id = 1")
    die("inside")
    connection.execute("UPDATE documents SET length = length(text)")


class Dying(Files):
    def replace(self, path: Path, content: bytes, *, mode: int = 0o600) -> None:
        die("before")
        super().replace(path, content, mode=mode)
        if content == b"embank 3\n":
            die("file")


def newer() -> None:
    """Give this process's Embank a format 3."""
    migration.STEPS = (*migration.STEPS, migration.Step(3, "the length of texts", change, "at once"))
    schema.FORMAT = 3


if __name__ == "__main__":
    newer()
    LocalStore(Path(sys.argv[1]), read_only=False, settings=Settings(), stream=Stream(), files=Dying()).close()
    die("after")

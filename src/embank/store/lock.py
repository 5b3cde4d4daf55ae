"""One process writes a bank: an exclusive lock on its LOCK file, which says who holds it.

The kernel drops the lock when its holder ends, however it ends, so a stale file never blocks anyone.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from embank.errors import BankLocked
from embank.system.process import start_time


class WriterLock:
    """Held from construction to `close`. Raises `BankLocked`, naming the holder, when another process has it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            holder = read_holder(path)
            who = f"process {holder['pid']}" if "pid" in holder else "another process"
            raise BankLocked(
                f"{path.parent} is open for writing in {who}: wait for it, or open the bank read-only", **holder
            ) from error
        self._write({"pid": os.getpid(), "started": start_time(os.getpid()), "endpoint": None})

    def announce(self, endpoint: str) -> None:
        """Record where the holder serves the bank, so that other commands can use it."""
        self._write({"pid": os.getpid(), "started": start_time(os.getpid()), "endpoint": endpoint})

    def close(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _write(self, holder: dict[str, object]) -> None:
        content = json.dumps(holder).encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))


def read_holder(path: Path) -> dict[str, object]:
    """What the LOCK file says of its holder: pid, started, endpoint; empty when it says nothing."""
    try:
        holder = json.loads(path.read_bytes() or b"{}")
    except (OSError, ValueError):  # being written this very moment, or not ours to read: the lock itself decides
        return {}
    return holder if isinstance(holder, dict) else {}

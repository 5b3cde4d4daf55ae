"""One process writes a bank: an exclusive lock on its LOCK file, which says who holds it; SERVER says where it serves.

The kernel drops the lock when its holder ends, however it ends, so a stale file never blocks anyone. SERVER is written
whole or not at all, goes when the lock is given up, and counts only while the process that wrote it lives.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from embank.errors import BankLocked, BankServed
from embank.system.files import Files
from embank.system.process import is_running, start_time

SERVER = "SERVER"


@dataclass(frozen=True, slots=True)
class Serving:
    """The process that serves a bank, and where. Whoever knows `secret` could read the file, which is its user's alone.

    `certificate` is the file of the certificate that it shows, where it speaks https.
    """

    pid: int
    started: float | None
    endpoint: str
    secret: str = field(repr=False)
    certificate: str | None = None


class WriterLock:
    """Held from construction to `close`. Raises `BankLocked`, naming the holder, when another process has it."""

    def __init__(self, path: Path) -> None:
        self._server = path.with_name(SERVER)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise _locked(path) from error
        self.withdraw()  # what a server that was killed has left
        self._pid, self._started = os.getpid(), start_time(os.getpid())
        self._write({"pid": self._pid, "started": self._started})

    def announce(self, endpoint: str, *, secret: str, certificate: Path | None = None) -> None:
        """Record where the holder serves the bank, so that other commands can use it."""
        shown = None if certificate is None else str(certificate.absolute())
        serving = Serving(self._pid, self._started, endpoint, secret, shown)
        Files().replace(self._server, json.dumps(asdict(serving)).encode())

    def withdraw(self) -> None:
        """Take back what was announced. May be called at any time, also when nothing was."""
        self._server.unlink(missing_ok=True)

    def close(self) -> None:
        self.withdraw()
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _write(self, holder: dict[str, object]) -> None:
        content = json.dumps(holder).encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))


def read_holder(path: Path) -> dict[str, object]:
    """What the LOCK file says of its holder: pid, started; empty when it says nothing."""
    try:
        holder = json.loads(path.read_bytes() or b"{}")
    except (OSError, ValueError):  # being written this very moment, or not ours to read: the lock itself decides
        return {}
    return holder if isinstance(holder, dict) else {}


def read_serving(root: Path) -> Serving | None:
    """Who serves the bank at `root`; `None` where nobody is known to, or the process that said so is gone."""
    try:
        serving = Serving(**json.loads((root / SERVER).read_bytes()))
    except (OSError, ValueError, TypeError):  # there is none, it is not ours to read, or not of this version
        return None
    return serving if is_running(serving.pid, serving.started) else None


def _locked(path: Path) -> BankLocked:
    serving = read_serving(path.parent)
    if serving is not None:
        return BankServed(
            f"{path.parent} is served at {serving.endpoint} by process {serving.pid}: go through that server, or stop "
            f"it first (Ctrl-C, or kill {serving.pid})",
            pid=serving.pid,
            endpoint=serving.endpoint,
        )
    holder = read_holder(path)
    who = f"process {holder['pid']}" if "pid" in holder else "another process"
    return BankLocked(f"{path.parent} is open for writing in {who}: wait for it, or open the bank read-only", **holder)

"""Pressure as the kernel feels it: how long tasks wait for memory, and being told when that begins.

Covers pressure stall information (PSI) of the control group or the machine, and the protocol by which a service manager
says what to watch: `MEMORY_PRESSURE_WATCH` names a PSI file, a FIFO or a socket, `MEMORY_PRESSURE_WRITE` holds, in
base64, what is to be written there first (https://systemd.io/MEMORY_PRESSURE). The variables are handed in. Without
them nothing is watched: triggers of one's own need rights that a service seldom has.

This is about what the kernel has to do to find memory, not about any budget of ours: an idle machine may be full, and
one with room may stall at a group's limit.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import select
import socket
import stat
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embank.memory.cgroups import ControlGroups, read_bytes
from embank.system.log import get_logger

WATCH = "MEMORY_PRESSURE_WATCH"
WRITE = "MEMORY_PRESSURE_WRITE"

_log = get_logger(__name__)
_READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Stall:
    """Per cent of the last 10, 60 and 300 s in which some task waited for memory, and `full` in which all did.

    `total_s` counts the seconds of some since the group or the machine began. `scope`: cgroup or machine.
    """

    scope: str
    some10_pct: float
    some60_pct: float
    some300_pct: float
    full10_pct: float
    total_s: float


class StallReader:
    """Reads PSI: of the nearest control group that tells (version 2), else of the machine. Thread-safe; some 30 µs."""

    def __init__(self, *, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._machine = f"{proc}/pressure/memory"
        self._groups = ControlGroups(proc=proc, cgroup=cgroup)

    def read(self) -> Stall | None:
        """As it is now; None where the kernel does not tell (built without it, or switched off)."""
        groups = [("cgroup", f"{folder}/memory.pressure") for folder in self._groups.folders(os.getpid())]
        for scope, path in (*groups, ("machine", self._machine)):
            try:
                return _parsed(read_bytes(path).decode("ascii"), scope)
            except (OSError, ValueError, KeyError):  # not there, switched off, or in a form to come
                continue
        return None


def _parsed(text: str, scope: str) -> Stall:
    """From the kernel's lines: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same with `full`."""
    lines: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        lines[kind] = {name: float(value) for name, _, value in (field.partition("=") for field in fields)}
    some, full = lines["some"], lines.get("full", {})
    return Stall(scope, some["avg10"], some["avg60"], some["avg300"], full.get("avg10", 0.0), some["total"] / 1e6)


class PressureWatch:
    """Calls `heard`, a bound method, with the kind of the source (psi, fifo, socket) whenever pressure is reported.

    A daemon thread, asleep in the kernel until then. The owner of the method is held weakly: when it is gone, the
    thread ends with the next report. It also ends, with a warning, when the source is closed from the other side.
    Thread-safe. In a child after a fork nothing is watched: the word was for the parent.
    """

    def __init__(self, kind: str, fd: int, events: int, heard: Callable[[str], object]) -> None:
        self.kind = kind
        self._pid = os.getpid()
        self._fd = fd
        self._events = events
        self._heard = weakref.WeakMethod(heard)
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._closing = threading.Lock()
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="embank-pressure", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether anything is watched."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def close(self) -> None:
        """End the thread. May be repeated."""
        with self._closing:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        if os.getpid() == self._pid:
            with contextlib.suppress(BrokenPipeError):  # it has ended by itself
                os.write(self._write_end, b"x")
            if thread is not threading.current_thread():
                thread.join()
        os.close(self._write_end)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, self._events)
        poll.register(self._read_end, select.POLLIN)
        try:
            while True:
                ready = dict(poll.poll())
                if self._read_end in ready or not self._turn(ready.get(self._fd, 0)):
                    return
        finally:
            os.close(self._fd)
            os.close(self._read_end)

    def _turn(self, event: int) -> bool:
        """Take one report; whether there may be more."""
        if event & select.POLLIN and not self._discard():
            _log.warning("memory pressure: the %s was closed from the other side and is watched no longer", self.kind)
            return False
        if event & self._events:
            heard = self._heard()
            if heard is None:
                return False
            try:
                heard(self.kind)
            except Exception:  # noqa: BLE001 -- the next report is wanted all the same
                _log.exception("acting on a report of memory pressure failed")
            return True
        if event:  # an error, or a hang-up with nothing to read
            _log.warning("memory pressure: the %s has ended and is watched no longer", self.kind)
        return not event

    def _discard(self) -> bool:
        """Read what was said, which means nothing beyond that it was; False at its end."""
        try:
            while True:
                if not os.read(self._fd, _READ_BYTES):
                    return False
        except BlockingIOError:
            return True
        except OSError:
            return False


def watch(environ: Mapping[str, str], heard: Callable[[str], object]) -> PressureWatch | None:
    """Watch what the variables of the protocol name.

    None where they name nothing or say that nothing is to be watched (`/dev/null`), and, with a warning, where what
    they name can't be watched.
    """
    path = environ.get(WATCH, "")
    if not path or path == os.devnull:
        return None
    try:
        first = base64.b64decode(environ.get(WRITE, ""), validate=True)
        kind, fd, events = _opened(path, first)
    except (OSError, ValueError, binascii.Error) as error:
        _log.warning("memory pressure is not watched: %s=%s: %s", WATCH, path, error)
        return None
    return PressureWatch(kind, fd, events, heard)


def _opened(path: str, first: bytes) -> tuple[str, int, int]:
    """Kind, descriptor (non-blocking) and the events to wait for."""
    mode = Path(path).stat().st_mode
    if stat.S_ISSOCK(mode):
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
            connection.connect(path)
            connection.sendall(first)
            connection.setblocking(False)
            return "socket", connection.detach(), select.POLLIN
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise ValueError("it is neither a pressure file nor a FIFO nor a socket")
    # A FIFO opened for writing, too, has no end when its other writers leave.
    wants_write = bool(first) or stat.S_ISFIFO(mode)
    fd = os.open(path, (os.O_RDWR if wants_write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if first:
            os.write(fd, first)
    except BaseException:
        os.close(fd)
        raise
    return ("fifo", fd, select.POLLIN) if stat.S_ISFIFO(mode) else ("psi", fd, select.POLLPRI)

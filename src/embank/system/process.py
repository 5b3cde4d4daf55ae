"""Other processes: who is still running, and short-lived children.

Covers telling a process from a later one with the same id, dying with one's parent, and running a module of Embank as
a child for a job that ends (a conversion). Does not cover the long-lived model worker, and never uses
`multiprocessing`, whose spawn re-runs the user's unguarded script.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_STDERR_TAIL_BYTES = 16 * 1024
_LINE_LIMIT_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024
_PIPES_HOLD_BYTES = 2 * 1024 * 1024  # both pipes at the most that Linux lets them hold
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start_time(pid: int, *, proc: Path = Path("/proc")) -> float | None:
    """When the process started, in clock ticks since the machine did; with the pid it identifies a process.

    None where there is no such process, or no `/proc` to ask. A zombie still has one.
    """
    stat = _stat(pid, proc)
    return None if stat is None else stat[1]


def is_running(pid: int, started: float | None, *, proc: Path = Path("/proc")) -> bool:
    """Whether the process that had `pid` and `start_time` `started` still runs: a reused pid and a zombie do not count.

    Where the start can't be read (no `/proc`, another user's process that is hidden) or `started` is None, whether the
    pid exists must do: the answer then errs towards running. Process ids of another machine or container mean nothing
    here.
    """
    stat = _stat(pid, proc)
    if stat is None:
        return _exists(pid)
    state, ticks = stat
    return state not in "ZX" and (started is None or ticks == started)


def die_with_parent(*, parent_pid: int | None = None, with_signal: signal.Signals = signal.SIGKILL) -> bool:
    """Ask the kernel to send this process `with_signal` when its parent dies, however it dies.

    Call it first thing in a child. With `parent_pid`, a parent that died before this call is noticed, too: then the
    signal is sent at once. Linux counts the *thread* that made the child as the parent, so that thread must outlive
    it. Returns False where the system has no such thing (anything but Linux); raises OSError where the kernel refuses.
    """
    if sys.platform != "linux":
        return False
    import ctypes  # only children pay for it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(with_signal), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if parent_pid is not None and os.getppid() != parent_pid:
        os.kill(os.getpid(), with_signal)
    return True


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child ended. `returncode` is negative for the signal that ended it (-9 also when it was timed out)."""

    returncode: int
    stderr_tail: str
    """The last 16 KiB of its standard error."""
    timed_out: bool
    seconds: float


def run_child(
    module: str,
    args: Sequence[str],
    *,
    on_line: Callable[[str], None],
    environ: Mapping[str, str | None],
    timeout_s: float | None,
    on_start: Callable[[int], None] | None = None,
) -> ChildResult:
    """Run `python -m module args…` to its end, giving each line that it prints to `on_line` meanwhile.

    `environ` is laid over this process's environment (None removes a variable). The child imports the same `embank` as
    this process and nothing from the working directory; its standard input is empty; it leads its own session, so that
    Ctrl-C reaches the parent alone. `on_start` is told its process id. Both callbacks run in the calling thread.

    The child is killed, with what it started, after `timeout_s` (the result then says `timed_out`) and when a callback
    raises or this thread is interrupted, in which case the exception passes through once the child is gone. What the
    child started and left behind when it ended by itself is not waited for. A line longer than 1 MiB comes in pieces;
    bytes that are not UTF-8 are replaced.
    """
    if not sys.executable:
        raise RuntimeError("this interpreter does not know its own executable, so it can't start a child")
    started_s = time.monotonic()
    # -P: the working directory is the user's; a stray json.py or embank/ there must not be imported.
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(environ),
        start_new_session=True,
    )
    try:
        if on_start is not None:
            on_start(child.pid)
        tail, timed_out = _follow(child, on_line, None if timeout_s is None else started_s + timeout_s)
    finally:
        _kill(child)
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    return ChildResult(
        returncode=child.returncode,
        stderr_tail=tail.decode("utf-8", "replace"),
        timed_out=timed_out,
        seconds=time.monotonic() - started_s,
    )


def _follow(
    child: subprocess.Popen[bytes], on_line: Callable[[str], None], deadline_s: float | None
) -> tuple[bytes, bool]:
    """Read both pipes until the child has ended; its last bytes of stderr, and whether the deadline passed first."""
    lines = _Lines(on_line)
    tail = bytearray()
    left_behind_bytes = 0
    with selectors.DefaultSelector() as selector:
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() or child.poll() is None:
            ended = child.poll() is not None  # before the read: what it wrote before it ended is then in the pipes
            if not ended and deadline_s is not None and time.monotonic() >= deadline_s:
                return bytes(tail), True
            ready = selector.select(0.0 if ended else _wait_s(deadline_s))
            if ended and (not ready or left_behind_bytes > _PIPES_HOLD_BYTES):
                break  # a grandchild holds the pipes open; the child has said all it had to say
            for key, _ in ready:
                stream: IO[bytes] = key.fileobj  # type: ignore[assignment]  # what was registered above
                data = os.read(stream.fileno(), _READ_BYTES)
                left_behind_bytes += len(data) if ended else 0
                if not data:
                    selector.unregister(stream)
                elif stream is child.stdout:
                    lines.feed(data)
                else:
                    tail += data
                    del tail[:-_STDERR_TAIL_BYTES]
    lines.finish()
    return bytes(tail), False


class _Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._give(line)
        if len(self._rest) >= _LINE_LIMIT_BYTES:
            self.finish()

    def finish(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._give(rest)

    def _give(self, line: bytes) -> None:
        self._on_line(line.removesuffix(b"\r").decode("utf-8", "replace"))


def _wait_s(deadline_s: float | None) -> float:
    """How long to wait for output before looking whether the child has ended."""
    return _POLL_S if deadline_s is None else min(_POLL_S, max(deadline_s - time.monotonic(), 0.0))


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a child that still runs, with its session, and reap it."""
    if child.poll() is None:
        # Not reaped yet, so the id can't have been given to another process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def child_environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of a child that imports the same `embank`: this process's with `changes` laid over it.

    None removes a variable.
    """
    merged: dict[str, str | None] = {**os.environ, **changes}
    environment = {name: value for name, value in merged.items() if value is not None}
    root = str(Path(__file__).resolve().parents[2])
    # Site folders are found without help, and on PYTHONPATH they would come before the standard library.
    if root not in {str(Path(folder).resolve()) for folder in [*site.getsitepackages(), site.getusersitepackages()]}:
        rest = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{rest}" if rest else root
    environment["PYTHONIOENCODING"] = "utf-8"
    environment["PYTHONUNBUFFERED"] = "1"  # lines arrive when they are printed
    return environment


def _stat(pid: int, proc: Path) -> tuple[str, float] | None:
    """State letter and start ticks from `/proc/PID/stat` (fields 3 and 22 of proc(5)), None where unreadable."""
    try:
        content = (proc / str(pid) / "stat").read_bytes()
        # The command's name, in parentheses, may itself hold spaces and parentheses.
        fields = content.rpartition(b")")[2].split()
        return fields[0].decode("ascii"), float(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _exists(pid: int) -> bool:
    if pid <= 0:  # 0 and negative ids mean groups
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True

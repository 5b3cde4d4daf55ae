"""Memory of a process tree, watched from outside."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc")


def held_bytes(pid: int) -> int:
    """Anonymous and shared memory of one process, from `status`; 0 when it is gone."""
    try:
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(fields.get(key, "0 kB").split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))


def command_line(pid: int) -> bytes:
    """The arguments of a process; empty when it is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def tree(pid: int) -> dict[int, bytes]:
    """The process and all that descend from it, with their command lines.

    A child that still shows its parent's command line has not become another program yet: it runs in its parent's
    memory, which is counted once.
    """
    found: dict[int, bytes] = {}
    waiting = [(pid, b"")]
    while waiting:
        current, parents_line = waiting.pop()
        line = command_line(current)
        if line != parents_line:
            found[current] = line
        for children in (PROC / str(current) / "task").glob("*/children"):
            try:
                waiting.extend((int(child), line) for child in children.read_text().split())
            except OSError:
                continue
    return found


@dataclass(slots=True)
class Watched:
    """A command that ended: its output, and the peaks of its tree in bytes.

    `marked_peak` is the tree's while a process was in it whose command line held the marker, `marked_child_peak` that
    process's own. `samples` are (seconds since the start, bytes of the tree).
    """

    returncode: int
    stdout: str
    stderr: str
    peak: int = 0
    marked_peak: int = 0
    marked_child_peak: int = 0
    seconds: float = 0.0
    samples: list[tuple[float, int]] = field(default_factory=list)


def watch(
    command: Sequence[str],
    *,
    environ: dict[str, str] | None = None,
    marker: str = "\0",
    hertz: float = 100.0,
    errors_through: bool = False,
) -> Watched:
    """Run a command to its end and sample its tree. `errors_through`: its standard error is ours, and not kept."""
    started = time.perf_counter()
    result = Watched(0, "", "")
    errors = None if errors_through else subprocess.PIPE
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ) as process:
        ended = threading.Event()

        def sample() -> None:
            due = time.perf_counter()
            while not ended.is_set():
                _look(process.pid, marker, started, result)
                due += 1 / hertz
                ended.wait(max(due - time.perf_counter(), 0))

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        result.stdout, said = process.communicate()
        result.stderr = said or ""  # `None` where it went through
        ended.set()
        sampler.join()
    result.returncode, result.seconds = process.returncode, time.perf_counter() - started
    return result


def _look(pid: int, marker: str, started: float, result: Watched) -> None:
    lines = tree(pid)
    held = {each: held_bytes(each) for each in lines}
    total = sum(held.values())
    result.peak = max(result.peak, total)
    result.samples.append((time.perf_counter() - started, total))
    for each, line in lines.items():
        if marker.encode() in line:
            result.marked_peak = max(result.marked_peak, total)
            result.marked_child_peak = max(result.marked_child_peak, held[each])


class Sampler:
    """Looks at a process's tree `hertz` times a second from a thread of its own, until it is left.

    `each(seconds since the start, bytes held, seconds since the last look)` is called in that thread. A look that comes
    late, since the machine is busy, is not made up for: the third number says how long nothing was seen.
    """

    def __init__(self, pid: int, each: Callable[[float, int, float], object], *, hertz: float = 100.0) -> None:
        self._pid = pid
        self._each = each
        self._interval_s = 1 / hertz
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        began = last = due = time.perf_counter()
        while not self._ended.is_set():
            held = sum(held_bytes(each) for each in tree(self._pid))
            now = time.perf_counter()
            if held:
                self._each(now - began, held, now - last)
                self.looks += 1
            last = now
            due = max(due + self._interval_s, now)
            self._ended.wait(due - now)

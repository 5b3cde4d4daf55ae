"""A command inside a memory control group of its own: a real limit, with a real kill beyond it.

Version 1: a folder below /sys/fs/cgroup/memory with `memory.limit_in_bytes` (and `memory.memsw.limit_in_bytes`, where
swap is counted). Version 2: a folder below /sys/fs/cgroup with `memory.max`. Both take root and a hierarchy that can be
written; `why_not` says what is missing.

The command is begun by a shell that puts itself into the group and then becomes the command, so that all it ever
allocates is charged. Page cache of files that it is the first to read is charged, too, and taken back at the limit
before anything is killed: libraries that another process has in memory already cost nothing here, for Embank and for
its peers alike. Before a group is removed its page cache is emptied, so that the next one begins with none.

Does not limit processors or disks.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")
_JOIN = 'echo $$ > "$0" && exec "$@"'
_NUMBERS = count()
_SAMPLE_S = 0.02
_REMOVE_S = 10.0


class NoGroupError(Exception):
    """No memory control group can be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A confined command that ended, or was ended after its time.

    `code` is 137 where it was killed. `oom_kills`: processes of the group that the kernel killed; `failures`: how often
    the limit was hit, page cache included (version 1; 0 in version 2). `peak_bytes` includes page cache, as the kernel
    counts it (0 where it doesn't); `held_peak_bytes` is anonymous and shared memory alone, sampled at 50 Hz.
    """

    code: int
    output: str
    errors: str
    seconds: float
    oom_kills: int
    failures: int
    peak_bytes: int
    held_peak_bytes: int
    timed_out: bool


class Group:
    """A control group with a limit, a context manager. For one command at a time."""

    def __init__(self, limit_bytes: int) -> None:
        """Make it; `NoGroupError` where that can't be done."""
        self.version = 1 if (V1 / "memory.limit_in_bytes").exists() else 2
        self.folder = (V1 if self.version == 1 else V2) / f"embank-{os.getpid()}-{next(_NUMBERS)}"
        try:
            if self.version == 2:
                _enable_version_2()
            self.folder.mkdir()
        except OSError as error:
            raise NoGroupError(f"no memory control group can be made: {error}") from error
        try:
            self._limit(limit_bytes)
        except OSError as error:
            self.folder.rmdir()
            raise NoGroupError(f"{self.folder} can't be limited: {error}") from error

    def run(self, command: Sequence[str], *, timeout_s: float, environ: Mapping[str, str] | None = None) -> Ended:
        """Run a command inside, to its end or for so long."""
        started = time.perf_counter()
        process = subprocess.Popen(
            ["/bin/sh", "-c", _JOIN, str(self.folder / "cgroup.procs"), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        ended, timed_out, held_peak = threading.Event(), False, 0

        def sample() -> None:
            nonlocal held_peak
            while not ended.wait(_SAMPLE_S):
                held_peak = max(held_peak, self.held_bytes())

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            self.end_all()
            output, errors = process.communicate()
        finally:
            ended.set()
            sampler.join()
        code = process.returncode
        return Ended(
            code=128 - code if code < 0 else code,
            output=output,
            errors=errors,
            seconds=time.perf_counter() - started,
            oom_kills=self._oom_kills(),
            failures=int((self.folder / "memory.failcnt").read_text()) if self.version == 1 else 0,
            peak_bytes=self._peak_bytes(),
            held_peak_bytes=held_peak,
            timed_out=timed_out,
        )

    def held_bytes(self) -> int:
        """Anonymous and shared memory that the group holds now."""
        stat = _fields(self.folder / "memory.stat")
        names = ("total_rss", "total_shmem") if self.version == 1 else ("anon", "shmem")
        return sum(stat.get(name, 0) for name in names)

    def end_all(self) -> None:
        """Kill what is in the group."""
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)

    def close(self) -> None:
        """Remove the group; `OSError` where something in it does not end."""
        began = time.monotonic()
        while True:
            self.end_all()
            try:
                if self.version == 1:
                    (self.folder / "memory.force_empty").write_text("0")
                self.folder.rmdir()
            except OSError:  # busy, until the last process is gone
                if time.monotonic() - began > _REMOVE_S:
                    raise
                time.sleep(0.05)
            else:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _limit(self, limit_bytes: int) -> None:
        if self.version == 2:
            (self.folder / "memory.max").write_text(str(limit_bytes))
            swap = self.folder / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
            return
        (self.folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        both = self.folder / "memory.memsw.limit_in_bytes"
        if both.exists():
            both.write_text(str(limit_bytes))
        else:
            (self.folder / "memory.swappiness").write_text("0")

    def _oom_kills(self) -> int:
        file = self.folder / ("memory.oom_control" if self.version == 1 else "memory.events")
        return _fields(file).get("oom_kill", 0)

    def _peak_bytes(self) -> int:
        file = self.folder / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")
        return int(file.read_text()) if file.exists() else 0


def why_not() -> str:
    """Why no group can be made here; empty where one can."""
    try:
        Group(1 << 30).close()
    except NoGroupError as error:
        return str(error)
    return ""


def confined(
    command: Sequence[str], *, limit_bytes: int, timeout_s: float, environ: Mapping[str, str] | None = None
) -> Ended:
    """Run a command inside a limit, in a group made for it."""
    with Group(limit_bytes) as group:
        return group.run(command, timeout_s=timeout_s, environ=environ)


def _enable_version_2() -> None:
    if "memory" not in (V2 / "cgroup.controllers").read_text().split():
        raise NoGroupError(f"the memory controller is not among those of {V2}")
    control = V2 / "cgroup.subtree_control"
    if "memory" not in control.read_text().split():
        control.write_text("+memory")


def _fields(file: Path) -> dict[str, int]:
    words = file.read_text().split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=False))

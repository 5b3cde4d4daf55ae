"""What the kernel says is held: the process tree, and the control group with its limit.

Counts what can't be taken back: anonymous and shared pages of this process and its descendants, and of the control
group also unreclaimable kernel memory and pages on their way to disk. Never plain RSS nor "free" memory: mapped files
(vectors) are the page cache's affair, and would look like pressure for ever. Swapped-out pages do not count.

Does not see a descendant whose parent within the tree has died (it is adopted from outside).

A reading opens some ten small files and keeps none open. Measured: 0.15 ms for a process with a few threads, 0.45 ms
with 30 threads and two children (12 µs for each process's `status`, 5 µs for each thread's `children`, 60 µs for the
control groups); at 1 Hz that is under 0.05 % of a core. `smaps_rollup` would be exact where processes share pages, but
costs 11 ms with a large mapping.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from embank.memory.cgroups import ControlGroups, read_bytes

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_FIELD = re.compile(rb"^(RssAnon|RssFile|RssShmem|VmRSS|VmSize):\s+(\d+) kB$", re.MULTILINE)

Source = Literal["status", "rss", "peak"]
"""Where a reading comes from.

- `status`: anonymous and shared pages of the tree, as they are now.
- `rss`: a kernel (or a sandbox) that does not tell them apart; the tree's whole RSS, mapped files included.
- `peak`: no /proc at all (macOS): the most that *this process* has ever held, mapped files included. It never falls and
  knows no children: good for a report, useless for steering.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory at one moment, in bytes.

    `tree_bytes`: the process tree, Embank's own memfds once. `cgroup_bytes` and `cgroup_limit_bytes`: of the control
    group on the way up to the root that has the least room left; without a limit anywhere, the process's own group and
    None; both None where there are no control groups.
    """

    tree_bytes: int
    cgroup_bytes: int | None
    cgroup_limit_bytes: int | None
    processes: int
    source: Source = "status"
    by_process: tuple[tuple[int, int], ...] = ()
    """Process id and bytes of each of the tree, this process first; without what memfds hold that are counted once."""


class Meter(Protocol):
    """Reads memory. Thread-safe and cheap: it is called before every reservation."""

    def read(self) -> Reading: ...


class SystemMeter:
    """The kernel's figures for the process `pid` (by default the one that asks) and its descendants. Thread-safe."""

    def __init__(self, *, pid: int | None = None, proc: Path = _PROC, cgroup: Path = _CGROUP) -> None:
        self._pid = pid
        self._proc = str(proc)
        self._groups = ControlGroups(proc=proc, cgroup=cgroup)
        self._memfds: dict[int, frozenset[int]] = {}

    def count_once(self, memfd: int, *, pids: Collection[int] = ()) -> None:
        """Count the pages of this open memfd once, though this process and `pids` (all of them here) map it.

        Call it again with other `pids` when a worker is replaced, and `forget` before the descriptor is closed.
        """
        os.fstat(memfd)  # an error belongs here, not into some later reading
        self._memfds = {**self._memfds, memfd: frozenset(pids)}

    def forget(self, memfd: int) -> None:
        """Take the memfd out of the account; harmless where it is not in it."""
        self._memfds = {fd: pids for fd, pids in self._memfds.items() if fd != memfd}

    def read(self) -> Reading:
        """Measure now."""
        root = os.getpid() if self._pid is None else self._pid
        tree_bytes, by_process, source = self._tree(root)
        if not by_process and not Path(self._proc, "self").exists():
            return _peak()
        state = self._groups.read(root)
        return Reading(
            tree_bytes=tree_bytes,
            cgroup_bytes=None if state is None else state.used_bytes,
            cgroup_limit_bytes=None if state is None else state.limit_bytes,
            processes=len(by_process),
            source=source,
            by_process=tuple(by_process),
        )

    def _tree(self, root: int) -> tuple[int, list[tuple[int, int]], Source]:
        memfds = [(os.fstat(fd).st_blocks * 512, pids) for fd, pids in self._memfds.items()]
        # A memfd's blocks are held whether or not anybody has touched them through a mapping: count those, and of each
        # process that maps it only the shared pages beyond.
        total_bytes = sum(size for size, _ in memfds)
        by_process: list[tuple[int, int]] = []
        source: Source = "status"
        seen: dict[int, _Held] = {}
        for pid, parent in self._walk(root):
            held = _status(f"{self._proc}/{pid}/status")
            if held is None:
                continue
            seen[pid] = held
            if held == seen.get(parent):
                by_process.append((pid, 0))
                continue  # between vfork and exec, or just forked: it is in its parent's pages, which are counted
            mapped = sum(size for size, pids in memfds if pid == root or pid in pids)
            own_bytes = held.anonymous + max(held.shared - mapped, 0)
            by_process.append((pid, own_bytes))
            total_bytes += own_bytes
            if not held.exact:
                source = "rss"
        return total_bytes, by_process, source

    def _walk(self, root: int) -> Iterator[tuple[int, int]]:
        """The process and its descendants, as far as they live, each with its parent (0 for the first)."""
        parents: dict[int, list[int]] | None = None
        pending, seen = [(root, 0)], {root}
        while pending:
            pid, parent = pending.pop()
            yield pid, parent
            children = _children(f"{self._proc}/{pid}/task")
            if children is None:
                if parents is None:
                    parents = _by_parent(self._proc)
                children = parents.get(pid, [])
            pending += [(child, pid) for child in children if child not in seen]
            seen.update(children)


def machine_limit(*, proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Bytes that this process may hold at most: the tightest control group limit up the tree, or physical memory.

    The whole that a budget in percent is a part of.
    """
    physical_bytes = _physical(proc)
    limit_bytes = ControlGroups(proc=proc, cgroup=cgroup).tightest_limit(os.getpid())
    return physical_bytes if limit_bytes is None else min(limit_bytes, physical_bytes)


def _physical(proc: Path) -> int:
    try:
        found = re.search(rb"^MemTotal:\s+(\d+) kB$", (proc / "meminfo").read_bytes(), re.MULTILINE)
    except FileNotFoundError:
        found = None
    if found:
        return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class _Held:
    """Bytes of a process; `exact` where anonymous and shared memory could be told apart."""

    anonymous: int
    shared: int
    file: int
    mapped: int
    exact: bool


def _status(path: str) -> _Held | None:
    """What a process holds; None where it has ended."""
    try:
        content = read_bytes(path)
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = {name: int(count) * 1024 for name, count in _FIELD.findall(content)}
    if not fields:
        return None  # a zombie, or a kernel thread: it holds nothing
    mapped = fields.get(b"VmSize", 0)
    if b"RssAnon" in fields:
        return _Held(fields[b"RssAnon"], fields.get(b"RssShmem", 0), fields.get(b"RssFile", 0), mapped, exact=True)
    return _Held(fields.get(b"VmRSS", 0), 0, 0, mapped, exact=False)


def _children(tasks: str) -> list[int] | None:
    """Ids of the children of all threads of a process; None where the kernel offers no such list."""
    found: list[int] = []
    try:
        threads = os.listdir(tasks)  # noqa: PTH208 — this is frequent; a Path costs as much as the read
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        try:
            found += map(int, read_bytes(f"{tasks}/{thread}/children").split())
        except ProcessLookupError:
            continue
        except FileNotFoundError:
            if Path(tasks, thread).exists():
                return None  # the thread is there and the list is not: a kernel without CONFIG_PROC_CHILDREN
    return found


def _by_parent(proc: str) -> dict[int, list[int]]:
    """Children by parent, from every process's `stat`: slow (15 µs for each process of the machine), always there."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir(proc):  # noqa: PTH208 — likewise
        if not name.isdecimal():
            continue
        try:
            content = read_bytes(f"{proc}/{name}/stat")
        except OSError:  # ended meanwhile, or hidden from us: then it is not our child either
            continue
        # The command's name, in parentheses, may itself hold spaces and parentheses.
        fields = content.rpartition(b")")[2].split()
        parents.setdefault(int(fields[1]), []).append(int(name))
    return parents


def _peak() -> Reading:
    import resource  # POSIX only; where it is missing there is nothing to measure with

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return Reading(tree_bytes=peak * unit_bytes, cgroup_bytes=None, cgroup_limit_bytes=None, processes=1, source="peak")

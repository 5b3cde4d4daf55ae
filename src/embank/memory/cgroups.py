"""Control groups, versions 1 and 2: what a group holds that can't be taken back, and the tightest limit above it.

Covers finding a process's memory group, also inside containers (where the path that the kernel names may lie outside of
what is mounted), and walking from it up to the root: each group on the way may have a limit, and each counts all that
lies below it. The group with the least room left is the one that will kill.

Held is: anonymous + shared memory (tmpfs, memfd) + dirty + under writeback, and in version 2 unreclaimable kernel
memory. Version 1 does not tell a group's reclaimable kernel memory (cached names and inodes: hundreds of megabytes
after reading many files) from the rest, so its kernel memory is left out; what is missed is page tables and thread
stacks, some 0.2 % of what is mapped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT_BYTES = 1 << 60
"""Version 1 says "no limit" with a number near 2**63, rounded down to a page."""

_V1_PARTS = (b"total_rss", b"total_shmem", b"total_dirty", b"total_writeback")
_V2_PARTS = (b"anon", b"shmem", b"file_dirty", b"file_writeback", b"sock")
_KERNEL_PARTS = (b"kernel_stack", b"pagetables", b"sec_pagetables", b"percpu", b"vmalloc", b"slab_unreclaimable")
"""Unreclaimable kernel memory, where the kernel (before 5.18) has no `kernel` total."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a group holds, and its limit, if it has one, in bytes."""

    used_bytes: int
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Group:
    """The memory group of a process and those above it, nearest first, as folders."""

    version: int
    folders: tuple[str, ...]


class ControlGroups:
    """The memory groups below the mount `cgroup`. Thread-safe.

    Where a process's folders lie is looked up again only when the kernel names another group for it; limits and figures
    are read afresh.
    """

    def __init__(self, *, proc: Path, cgroup: Path) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._found: tuple[bytes, _Group | None] = (b"", None)

    def read(self, pid: int) -> Held | None:
        """The group with the least room left, from the process's own up to the root of what is mounted.

        Without any limit it is the process's own group. None where there are no memory groups.
        """
        group = self._group(pid)
        if group is None:
            return None
        tightest: Held | None = None
        least_bytes = _NO_LIMIT_BYTES
        for folder, limit_bytes in _limits(group):
            held = Held(_used(folder, group.version), limit_bytes)
            if tightest is None or limit_bytes - held.used_bytes < least_bytes:
                tightest, least_bytes = held, limit_bytes - held.used_bytes
        return tightest or Held(_used(group.folders[0], group.version), None)

    def tightest_limit(self, pid: int) -> int | None:
        """The smallest limit from the process's group up to the root, or None where there is none."""
        group = self._group(pid)
        return None if group is None else min((limit for _, limit in _limits(group)), default=None)

    def folders(self, pid: int) -> tuple[str, ...]:
        """The folders of the process's group and of those above it, nearest first."""
        group = self._group(pid)
        return () if group is None else group.folders

    def _group(self, pid: int) -> _Group | None:
        try:
            membership = read_bytes(f"{self._proc}/{pid}/cgroup")
        except (FileNotFoundError, ProcessLookupError):
            return None
        known, group = self._found
        if membership != known or group is None:
            group = _find(os.fsdecode(membership), self._cgroup)
            self._found = (membership, group)
        return group


def read_bytes(path: str) -> bytes:
    """The whole of a small file of the kernel's. Readings are frequent, and a `Path` costs as much as the read."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 — see above
        return file.readall()


def _find(membership: str, cgroup: Path) -> _Group | None:
    """Version 1 where its memory controller is mounted, as the kernel allows a controller in one hierarchy only."""
    unified: str | None = None
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            return _folders(1, cgroup / "memory", path)
        if number == "0" and not controllers:
            unified = path
    if unified is None:
        return None
    hybrid = cgroup / "unified"  # version 2 beside version 1
    return _folders(2, hybrid if (hybrid / "cgroup.procs").exists() else cgroup, unified)


def _folders(version: int, root: Path, path: str) -> _Group | None:
    """The folder of the group `path` and those above it.

    In a container `path` may be told as the host sees it while `root` is the container's own group: then the longest
    tail of it that exists is taken, in the end `root` itself.
    """
    parts = [part for part in path.split("/") if part not in {"", ".."}]
    while parts and not root.joinpath(*parts, "memory.stat").exists():
        del parts[0]
    folders = [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    present = tuple(str(folder) for folder in folders if (folder / "memory.stat").exists())
    return _Group(version, present) if present else None


def _limits(group: _Group) -> Iterator[tuple[str, int]]:
    """Each folder that has a limit, and the limit."""
    for depth, folder in enumerate(group.folders):
        limit_bytes = _limit(folder, group.version)
        if group.version == 1 and depth == 0:
            # Groups above that a container can't see count here.
            limit_bytes = min(limit_bytes, _stat(folder).get(b"hierarchical_memory_limit", _NO_LIMIT_BYTES))
        if limit_bytes < _NO_LIMIT_BYTES:
            yield folder, limit_bytes


def _limit(folder: str, version: int) -> int:
    try:
        text = read_bytes(f"{folder}/memory.limit_in_bytes" if version == 1 else f"{folder}/memory.max").strip()
    except FileNotFoundError:
        return _NO_LIMIT_BYTES  # the root group has no such file in version 2
    return int(text) if text.isdigit() else _NO_LIMIT_BYTES  # "max"


def _used(folder: str, version: int) -> int:
    stat = _stat(folder)
    if version == 1:
        # Here `rss` means anonymous, and tmpfs counts as cache; `total_` includes the groups below.
        return sum(stat.get(name, 0) for name in _V1_PARTS)
    if b"kernel" in stat:
        kernel_bytes = max(stat[b"kernel"] - stat.get(b"slab_reclaimable", 0), 0)
    else:
        kernel_bytes = sum(stat.get(name, 0) for name in _KERNEL_PARTS)
    return kernel_bytes + sum(stat.get(name, 0) for name in _V2_PARTS)


def _stat(folder: str) -> dict[bytes, int]:
    words = read_bytes(f"{folder}/memory.stat").split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))

"""What keeps a process lean from its start: the C library's allocator, thread counts and caches of heavy libraries.

Call `apply` first thing, before numpy, CTranslate2 or tokenizers are imported: allocators and thread pools read their
settings once. Always in Embank's own processes (commands, the service, its children); in someone else's process only
when they ask, since it changes the whole process. A value that the user has set is never overridden.

What was measured (two cores, glibc 2.36, MiniLM int8 on CTranslate2, docstrings in batches of 1,024 padded tokens;
anonymous memory in MB; the system's share of the processor tells what page faults cost):

| allocator | peak | after a trim | user + system seconds |
|---|---|---|---|
| as it comes | 106 | 87-94 | 12.1 + 0.8 |
| two arenas | 110-116 | 90-99 | 12.8 + 0.9 |
| **one arena** | 104 | **71-73** | 12.5 + 0.9 |
| one arena, mmap threshold fixed at 32 MiB | 120 | 75 | 11.5 + 0.3 |
| two arenas, fixed at 4 MiB, trim threshold 16 MiB | 96 | 79 | 17.0 + 5.7 |
| two arenas, fixed at 64 KiB | 88 | 65 | 18.0 + 18.9 |

A fixed, small mmap threshold hands every freed tensor straight back to the kernel and faults it in again for the next
batch: the lowest peak, at half the speed. So a process that holds a model keeps glibc's own, moving threshold, and a
process that does not (a server whose model lives in a child: caches, codecs, HTTP bodies) may ask for
`LEAN_THRESHOLD_BYTES`, where blocks are large and long-lived.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embank.memory.trim import supported

LEAN_THRESHOLD_BYTES = 64 * 1024
"""For processes without a model: blocks from this size on are mapped one by one and return to the system when freed."""

_M_MMAP_THRESHOLD = -3  # malloc.h
_M_ARENA_MAX = -8
_ARENAS = 1
_MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did: allocator options set, environment variables set, and why the allocator was left alone."""

    allocator: Mapping[str, int]
    environment: Mapping[str, str]
    skipped: str = ""


def apply(*, mmap_threshold_bytes: int | None = None, threads: int | None = None) -> Applied:
    """Set the allocator of this process, and the environment for libraries that are imported from now on.

    Without `mmap_threshold_bytes` glibc keeps its moving threshold; see the module for when to give it. `threads`
    bounds those of matrix libraries (by default what may be used, 8 at most); they read it when they are imported.
    Options that the user has set by environment (`MALLOC_ARENA_MAX`, …) stay. Calling it again changes nothing.
    """
    present = set(os.environ)
    # Not the mmap threshold: children inherit the environment, and one of them may hold a model.
    environment = {name: value for name, value in _defaults(None, threads).items() if name not in present}
    os.environ.update(environment)
    support = supported()
    if not support:
        return Applied({}, environment, skipped=support.reason)
    wanted = {"MALLOC_ARENA_MAX": (_M_ARENA_MAX, _ARENAS)}
    if mmap_threshold_bytes is not None:
        wanted["MALLOC_MMAP_THRESHOLD_"] = (_M_MMAP_THRESHOLD, mmap_threshold_bytes)
    # The allocator read its variables when the process began: what stands there now was set by us or by the user.
    chosen = {name: option for name, option in wanted.items() if name not in present}
    allocator = {name: value for name, (number, value) in chosen.items() if _mallopt(number, value)}
    return Applied(allocator, environment)


def child_environment(*, mmap_threshold_bytes: int | None = None, threads: int | None = None) -> dict[str, str]:
    """Variables for a child's environment, to be laid over this process's own; what the user has set stays as it is.

    Give `mmap_threshold_bytes` only for a child without a model; `threads` as to `apply`.
    """
    return {name: os.environ.get(name, value) for name, value in _defaults(mmap_threshold_bytes, threads).items()}


def usable_cpus(*, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this process may really use: its affinity, and a container's quota (`cgroup`) rounded up.

    Libraries that ask the machine start 64 threads in a container that is allowed two, each with buffers of its own.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(count if quota is None else min(count, quota), 1)


def _defaults(mmap_threshold_bytes: int | None, threads: int | None) -> dict[str, str]:
    defaults = {
        # Every thread that allocates may get an arena of its own, and freed pages stay in each. One arena loses no
        # measurable speed (most small blocks come from per-thread caches) and gives most back when trimmed.
        "MALLOC_ARENA_MAX": str(_ARENAS),
        # OpenMP and, by default, OpenBLAS: bounded by what may be used, see `usable_cpus`.
        "OMP_NUM_THREADS": str(threads or min(usable_cpus(), _MOST_THREADS)),
        # Its threads are not to spin for work between two searches: the processor is others' meanwhile.
        "OMP_WAIT_POLICY": "PASSIVE",
        # oneDNN keeps one compiled primitive for each shape it has seen, 1,024 by default. Batches cut by padded tokens
        # have many shapes; few of them recur soon.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
        # Threads of the tokenizer: no gain on two cores (6,200 texts/s with and without), 1-5 MB, two threads more, and
        # a warning at every fork.
        "TOKENIZERS_PARALLELISM": "false",
    }
    if _has_avx512():
        # CTranslate2 takes AVX2 unless told, for the sake of processors that clock down under AVX-512; those with VNNI
        # do not. Measured: 15-40 % more tokens/s.
        defaults["CT2_FORCE_CPU_ISA"] = "AVX512"
    if mmap_threshold_bytes is not None:
        defaults["MALLOC_MMAP_THRESHOLD_"] = str(mmap_threshold_bytes)
    return defaults


def _has_avx512(*, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every processor has AVX-512 with its later parts; false where the system doesn't tell."""
    try:
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")]
    except OSError:
        return False
    wanted = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
    return bool(lines) and all(wanted <= set(line.split()) for line in lines)


def _mallopt(number: int, value: int) -> bool:
    import ctypes

    return bool(ctypes.CDLL(None).mallopt(number, value) == 1)


def _quota(cgroup: Path) -> int | None:
    """Whole processors of the group's quota, rounded up; None without one. Version 2, then version 1."""
    if sys.platform != "linux":
        return None
    try:
        quota, period = (cgroup / "cpu.max").read_text("ascii").split()
    except FileNotFoundError:
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text("ascii").strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text("ascii").strip()
        except FileNotFoundError:
            return None
    return -(-int(quota) // int(period)) if quota.isdecimal() else None  # "max" and "-1" mean none

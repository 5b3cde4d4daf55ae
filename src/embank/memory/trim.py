"""Handing the allocator's free pages back to the operating system: `malloc_trim`, on glibc only.

After a cache, a batch or a model is freed, glibc keeps the pages; a trim is what returns them (garbage collection alone
gives back far less). It walks every arena with the arena's lock held, 50 ms at worst for other threads, so it runs
rarely, and only where `mallinfo2` promises that it pays.

Under jemalloc, tcmalloc, mimalloc, musl and macOS nothing is done: there glibc's heap is absent or unused, and those
allocators return pages by themselves.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from embank.memory.cgroups import read_bytes
from embank.system.clock import Clock

if TYPE_CHECKING:
    import ctypes

_MALLINFO2_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)

_FOREIGN = {"mallctl": "jemalloc", "tc_version": "tcmalloc", "mi_version": "mimalloc"}
"""A symbol that an allocator exports to the whole process when it has replaced the C library's."""


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a trim can do anything in this process; if not, `reason` says why. True or false in a condition."""

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


@cache
def supported() -> Support:
    """Whether this process allocates with glibc. Looked up once: an allocator can't be changed in a running process."""
    if sys.platform != "linux":
        return Support(ok=False, reason=f"the allocator of {sys.platform} has no malloc_trim")
    libc = _libc()
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "malloc_trim"):
        return Support(ok=False, reason="the C library is not glibc")
    for symbol, name in _FOREIGN.items():
        if hasattr(libc, symbol):
            return Support(ok=False, reason=f"memory is allocated by {name}, which returns pages by itself")
    return Support(ok=True)


def trim() -> bool:
    """Return free pages of every arena to the system. True where some were returned; False also where unsupported.

    Thread-safe. Other threads that allocate meanwhile may wait for it.
    """
    return bool(supported()) and _libc().malloc_trim(0) == 1


@dataclass(frozen=True, slots=True)
class Free:
    """What the allocator has free.

    `heap_bytes`: by its own books, which also count pages that an earlier trim returned from the middle of the heap.
    `spare_bytes`: what the process holds beyond the blocks in use, which includes what others than the allocator hold
    (Python's small objects, stacks), and is negative where blocks were never touched. Neither is what a trim returns;
    how `spare_bytes` changes, within `heap_bytes`, comes near to it.
    """

    heap_bytes: int
    spare_bytes: int


def free() -> Free | None:
    """Ask the allocator. Takes some 20 µs, more where the heap is in many fragments.

    None where it can't be asked (no glibc, or before 2.33).
    """
    if not supported() or not hasattr(_libc(), "mallinfo2"):
        return None
    mallinfo2 = _libc().mallinfo2
    mallinfo2.restype = _mallinfo2_type()
    info = mallinfo2()
    return Free(int(info.fordblks), _anonymous_bytes() - int(info.uordblks) - int(info.hblkhd))


def free_bytes() -> int | None:
    """Bytes that the allocator holds free over all arenas and that still occupy memory: an upper bound.

    None where it can't be asked.
    """
    found = free()
    return None if found is None else max(min(found.heap_bytes, found.spare_bytes), 0)


def _anonymous_bytes() -> int:
    pages = read_bytes("/proc/self/statm").split()
    resident, file_and_shared = int(pages[1]), int(pages[2])
    return (resident - file_and_shared) * os.sysconf("SC_PAGE_SIZE")


class Trimmer:
    """Trims at most once in `interval_s`, and only where at least `least_bytes` have become free since the last time.

    Where the allocator can't tell what is free, the interval alone decides, also `at_once`.

    Thread-safe; while one thread trims, others are told False at once. `trim` and `free` can be replaced.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        least_bytes: int,
        clock: Clock,
        trim: Callable[[], bool] = trim,
        free: Callable[[], Free | None] = free,
    ) -> None:
        self._interval_s = interval_s
        self._least_bytes = least_bytes
        self._clock = clock
        self._trim = trim
        self._free = free
        self._busy = threading.Lock()
        self._last_s: float | None = None
        self._left_bytes: int | None = None
        """What the last trim left beyond the blocks in use, or what was seen there since, where that is less."""
        self.trims = 0

    def run(self, *, at_once: bool = False, whatever: bool = False) -> bool:
        """Trim, if it is time (or `at_once`, because somebody waits for the bytes) and if it pays.

        `whatever`: also where neither is so, since nobody is in the way. Returns whether it gave pages back.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            now_s = self._clock.monotonic()
            if not whatever and not self._due(now_s, at_once=at_once):
                return False
            returned = self._trim()
            self._last_s = now_s
            after = self._free()
            self._left_bytes = None if after is None else after.spare_bytes
            self.trims += 1
            return returned
        finally:
            self._busy.release()

    def renew(self) -> None:
        """In the child after a fork: the lock may be another thread's that is not there."""
        self._busy = threading.Lock()

    def _due(self, now_s: float, *, at_once: bool) -> bool:
        # Below 0 the clock was set back.
        soon = self._last_s is not None and 0 <= now_s - self._last_s < self._interval_s
        if soon and not at_once:
            return False
        free = self._free()
        if free is None:
            return not soon
        if self._left_bytes is None:
            return free.heap_bytes >= self._least_bytes
        # What the last trim left are fragments and what is not the allocator's. Less than that: some was used again.
        # The heap's own figure is no measure of that: it is the same before and after pages that a trim had returned
        # were used and freed again, as happens with every model that is loaded anew.
        self._left_bytes = min(self._left_bytes, free.spare_bytes)
        return min(free.heap_bytes, free.spare_bytes - self._left_bytes) >= self._least_bytes


@cache
def _libc() -> ctypes.CDLL:
    import ctypes  # 3 ms that only those who trim pay

    return ctypes.CDLL(None)


@cache
def _mallinfo2_type() -> type[ctypes.Structure]:
    import ctypes

    class Mallinfo2(ctypes.Structure):
        """`struct mallinfo2` of malloc.h, glibc 2.33 and later."""

        _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO2_FIELDS)

    return Mallinfo2

"""Memory by the page: anonymous mappings of the cache's own, and parallel arrays over them that grow and shrink.

A mapping reserves addresses, not memory; pages count once they are committed, and go back to the system the moment they
are dropped. Nothing passes through the allocator, which would keep what is freed. Huge pages are declined: they would
make two megabytes resident where four kilobytes were committed. So are core dumps, which would keep what is in here.

Not thread-safe; a reader may hold an array while its pages are dropped (it then reads zeros), never while they vanish:
a mapping lives as long as any array over it.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

PAGE = mmap.PAGESIZE

_BLOCK_BYTES = 1 << 18


def paged(count_bytes: int) -> int:
    """Rounded up to whole pages."""
    return -(-count_bytes // PAGE) * PAGE


class Pages:
    """One private anonymous mapping of `count_bytes`, all zeros."""

    def __init__(self, count_bytes: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self.map = mmap.mmap(-1, max(paged(count_bytes), PAGE), flags=flags)
        for advice in ("MADV_NOHUGEPAGE", "MADV_DONTDUMP"):
            with contextlib.suppress(AttributeError, OSError):  # a system without the one has nothing to decline
                self.map.madvise(getattr(mmap, advice))

    def array(self, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """An array over the beginning of the mapping."""
        count = 1
        for length in shape:
            count *= length
        return np.frombuffer(self.map, dtype, count).reshape(shape)

    def drop(self, start_bytes: int, stop_bytes: int) -> None:
        """Give the whole pages between back; they read as zeros afterwards."""
        start, stop = paged(start_bytes), min(paged(stop_bytes), len(self.map))
        if start < stop:
            self.map.madvise(mmap.MADV_DONTNEED, start, stop - start)


class Lanes:
    """Parallel arrays over slots 0 … capacity - 1: `fields` is name -> (dtype, items a slot), 1 for a flat array.

    Slots below some number are in use by whoever owns this; `truncate` gives back what lies above.
    """

    def __init__(self, capacity: int, fields: Mapping[str, tuple[str, int]]) -> None:
        self.capacity = capacity
        self.fields = dict(fields)
        self._pages: dict[str, Pages] = {}
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, items) in fields.items():
            pages = self._pages[name] = Pages(capacity * np.dtype(dtype).itemsize * items)
            self._arrays[name] = pages.array(dtype, (capacity,) if items == 1 else (capacity, items))
        self._single: dict[str, memoryview[int]] = {
            name: memoryview(self._pages[name].map).cast(cast("Any", np.dtype(dtype).char))
            for name, (dtype, items) in fields.items()
            if items == 1
        }

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def single(self, name: str) -> memoryview[int]:
        """A flat lane for reading and writing single items, which numpy makes several times slower."""
        return self._single[name]

    def raw(self, name: str) -> mmap.mmap:
        """A lane's mapping, for the same with bytes."""
        return self._pages[name].map

    @staticmethod
    def bytes_at(fields: Mapping[str, tuple[str, int]], slots: int) -> int:
        """What so many slots take, by whole pages."""
        return sum(paged(slots * np.dtype(dtype).itemsize * items) for dtype, items in fields.values())

    def move(self, source: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> None:
        """Copy slots onto others, in blocks; the two don't overlap."""
        for start in range(0, len(source), 1024):
            old, new = source[start : start + 1024], target[start : start + 1024]
            for lane in self._arrays.values():
                lane[new] = lane[old]

    def truncate(self, slots: int, before: int) -> None:
        """Give back the pages of slots `slots` … `before` - 1, which read as zeros afterwards."""
        for name, lane in self._arrays.items():
            width = lane.strides[0]
            lane[slots : min(before, -(-paged(slots * width) // width))] = 0  # what shares a page with a kept slot
            self._pages[name].drop(slots * width, before * width)

    def moved(self, capacity: int, slots: int) -> Lanes:
        """The same over more slots, the first `slots` copied block by block, each block given back behind the copy."""
        wider = Lanes(capacity, self.fields)
        for name, lane in self._arrays.items():
            width = lane.strides[0]
            step = max(_BLOCK_BYTES // width, 1)
            for start in range(0, slots, step):
                stop = min(start + step, slots)
                wider[name][start:stop] = lane[start:stop]
                # The page that the next block begins in stays until that is through.
                self._pages[name].drop(max(start * width - PAGE + 1, 0), stop * width // PAGE * PAGE)
        return wider

"""Reading scattered vectors of mapped segments: the way that is right for rescoring, also when nothing is cached.

A kernel that reads ahead around every page that is touched reads a hundred times what a few hundred scattered vectors
take. So they are read through a mapping of their own that is told of random access, and where the last reading had to
wait for the disk, the kernel is told beforehand which pages are needed, in ascending order, so that it fetches them
at once instead of one after another.
"""

from __future__ import annotations

import mmap
import resource
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embank.store.codec import Codec, Float32, Stored

Slots = npt.NDArray[np.int64]

_WHO = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)
_RANDOM = getattr(mmap, "MADV_RANDOM", None)


def scattered(mapping: mmap.mmap) -> mmap.mmap:
    """The mapping, told that it is read at random."""
    if _RANDOM is not None:
        mapping.madvise(_RANDOM)
    return mapping


class Scattered:
    """The records of slots [0, n) in equally long segments, each an array over a `scattered` mapping. Thread-safe."""

    def __init__(self, codec: Codec, segment_rows: int, data_offset: int) -> None:
        self._codec = codec
        self._segment_rows = segment_rows
        self._data_offset = data_offset
        self._cold = True
        """Whether the last reading waited for the disk. Threads overwrite each other's finding: it is a hint."""

    def read(self, segments: Sequence[tuple[mmap.mmap, Stored]], slots: Slots) -> Float32:
        """float32 vectors of `slots`, in that order; each segment comes with its mapping."""
        out = np.empty((len(slots), self._codec.dimension), np.float32)
        order = np.argsort(slots, kind="stable")
        ascending = slots[order]
        bounds = np.searchsorted(ascending, np.arange(len(segments) + 1) * self._segment_rows)
        parts = [
            (number, order[first:last], ascending[first:last] - number * self._segment_rows)
            for number, (first, last) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
            if first < last
        ]
        before = _blocks_read()
        if self._cold:
            for number, _, local in parts:
                self._announce(segments[number][0], local)
        for number, places, local in parts:
            out[places] = self._codec.decode(segments[number][1][local])
        self._cold = _blocks_read() > before
        return out

    def _announce(self, mapping: mmap.mmap, local: Slots) -> None:
        if _WILL_NEED is None:
            return
        size = self._codec.record.itemsize
        first = (self._data_offset + local * size) // mmap.PAGESIZE
        last = (self._data_offset + (local + 1) * size - 1) // mmap.PAGESIZE
        for begin, end in zip(first.tolist(), last.tolist(), strict=True):
            mapping.madvise(_WILL_NEED, begin * mmap.PAGESIZE, (end - begin + 1) * mmap.PAGESIZE)


def _blocks_read() -> int:
    """Blocks that this thread had read from the disk so far; it does not count what was in the page cache."""
    return resource.getrusage(_WHO).ru_inblock

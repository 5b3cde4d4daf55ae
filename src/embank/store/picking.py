"""Reading scattered vectors of mapped segments: the way that is right for rescoring, also when nothing is cached.

A kernel that reads ahead around every page that is touched reads a hundred times what a few hundred scattered vectors
take. So they are read through a mapping of their own that is told of random access, and where the last reading had to
wait for the disk, the kernel is told beforehand which pages are needed, in ascending order, so that it fetches them
at once instead of one after another.
"""

from __future__ import annotations

import mmap
import resource
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from embank.store.codec import Codec, Float32, Stored
from embank.store.metric import Metric, scores

Slots = npt.NDArray[np.int64]
Segment = tuple[mmap.mmap, Stored]
"""A mapping, and the records in it."""

_BLOCK_BYTES = 124 << 10
"""Of float32: stays in the second-level cache, and is just less than what the allocator maps and unmaps every time."""

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
        self._block_rows = max((_BLOCK_BYTES - 1) // (4 * codec.dimension), 1)
        self._cold = True
        """Whether the last reading waited for the disk. Threads overwrite each other's finding: it is a hint."""

    def read(self, segments: Sequence[Segment], slots: Slots) -> Float32:
        """float32 vectors of `slots`, in that order; each segment comes with its mapping."""
        out = np.empty((len(slots), self._codec.dimension), np.float32)
        for places, stored in self._parts(segments, slots):
            out[places] = self._codec.decode(stored)
        return out

    def scores(self, metric: Metric, segments: Sequence[Segment], slots: Slots, query: Float32) -> Float32:
        """The scores of the vectors of `slots` for `query`, shape (dimension,), in that order.

        A few vectors at a time are decoded, in one place that stays in the cache, and none is moved about.
        """
        out = np.empty(len(slots), np.float32)
        scratch = np.empty((min(self._block_rows, len(slots)), self._codec.dimension), np.float32)
        for places, stored in self._parts(segments, slots):
            out[places] = scores(metric, self._codec.decode(stored, scratch), query)
        return out

    def _parts(self, segments: Sequence[Segment], slots: Slots) -> Iterator[tuple[Slots, Stored]]:
        """Where in `slots` some of them stand, and their records: ascending, at most a block at a time."""
        order = np.argsort(slots)
        ascending = slots[order]
        bounds = np.searchsorted(ascending, np.arange(len(segments) + 1) * self._segment_rows).tolist()
        spans = [(number, first, past) for number, (first, past) in enumerate(pairwise(bounds)) if first < past]
        local = ascending % self._segment_rows
        before = _blocks_read()
        if self._cold:
            for number, first, past in spans:
                self._announce(segments[number][0], local[first:past])
        for number, first, past in spans:
            records = segments[number][1]
            for start in range(first, past, self._block_rows):
                block = slice(start, min(start + self._block_rows, past))
                yield order[block], records.take(local[block])
        self._cold = _blocks_read() > before

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

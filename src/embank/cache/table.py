"""From a key to its slot: buckets of eight cells, two buckets for each key, a batch of keys at a time.

A cell is a tag (seven bits of the key, and one that says "taken") and a slot number: 5 bytes. A bucket's eight tags are
one 64-bit word, so that one subtraction compares all of them; the full 128 bits are compared where a tag fits. A key
lies in its first bucket, or, where that was full, in its second; where both are full, a resident is moved to its own
other bucket (cuckoo hashing with buckets: Dietzfelbinger and Weidling, 2007). Nothing else ever moves, and a removal is
one byte: there are no tombstones and no rehashing, except to another size.

Slots' keys are kept by the caller and handed in: `keys`, (slots, 2) words. Not thread-safe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embank.cache.keys import Keys
from embank.cache.slab import Pages, paged

Slots = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

LOAD = 0.8
"""Taken cells of all. Two buckets of eight hold 0.98 before anything has to be refused."""

_CELLS = 8
_ONES = np.uint64(0x0101010101010101)
_TAKEN = np.uint64(0x8080808080808080)
_PLACE = np.uint64(0x0001020304050607)
"""2^(8i) times this has i in its highest byte."""
_TAGS = tuple(bytes((0x80 | low,)) for low in range(128))
_BLOCK = 8_192


def buckets_for(slots: int) -> int:
    """Buckets of a table for so many slots."""
    return max(-(-int(slots / LOAD) // _CELLS), 1)


def bytes_for(slots: int) -> int:
    """What the table takes."""
    buckets = buckets_for(slots)
    return paged(buckets * _CELLS) + paged(buckets * _CELLS * 4)


class Table:
    """See the module. For up to `slots` keys."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._buckets = buckets_for(slots)
        tags, numbers = Pages(self._buckets * _CELLS), Pages(self._buckets * _CELLS * 4)
        self._words: Words = tags.array("<u8", (self._buckets,))
        self._tags: npt.NDArray[np.uint8] = tags.array("u1", (self._buckets * _CELLS,))
        self._slots: npt.NDArray[np.uint32] = numbers.array("<u4", (self._buckets * _CELLS,))
        # The same bytes for single look-ups, which numpy makes ten times slower.
        self._find_tag = tags.map.find
        self._one = memoryview(numbers.map).cast("I")

    def find(self, keys: Keys, wanted: Keys) -> Slots:
        """The slot of each wanted key, -1 where it is not there. shape (n,)."""
        low, high = wanted[:, 0], wanted[:, 1]
        found = np.full(len(wanted), -1, np.int64)
        pattern = (low & np.uint64(0x7F) | np.uint64(0x80)) * _ONES
        open_: Slots | None = None
        for part in (low, high):
            bucket = self._bucket(part if open_ is None else part[open_])
            unlike = self._words[bucket] ^ (pattern if open_ is None else pattern[open_])
            # Bytes that are zero, and sometimes the one above such; never a cell that is not taken.
            fits = (unlike - _ONES) & ~unlike & _TAKEN
            live = fits.nonzero()[0]
            while len(live):
                some = fits[live]
                lowest = some & (~some + np.uint64(1))
                slots = self._slots[bucket[live] * _CELLS + _index(lowest)]
                asked = live if open_ is None else open_[live]
                same = (keys[slots, 0] == low[asked]) & (keys[slots, 1] == high[asked])
                found[asked[same]] = slots[same]
                rest = some ^ lowest
                fits[live] = rest
                live = live[~same & (rest != 0)]
            open_ = (found < 0).nonzero()[0]
            if not len(open_):
                break
        return found

    def find_one(self, keys: Any, digest: bytes) -> int:
        """The slot of one key, or -1. `keys` is the mapping with the slots' keys, 16 bytes each."""
        low = int.from_bytes(digest[:8], "little")
        tag = _TAGS[low & 0x7F]
        find_tag = self._find_tag
        for part in (low, int.from_bytes(digest[8:], "little")):
            start = (part >> 32) * self._buckets >> 32 << 3
            cell = find_tag(tag, start, start + _CELLS)
            while cell >= 0:
                slot = self._one[cell]
                if keys[slot << 4 : (slot << 4) + 16] == digest:
                    return slot
                cell = find_tag(tag, cell + 1, start + _CELLS)
        return -1

    def insert(self, keys: Keys, slots: Slots) -> npt.NDArray[np.bool_]:
        """Enter slots whose keys are in `keys`, distinct and not in the table; which ones found a place, (n,).

        One without place is rarer than once in a million at full load.
        """
        mine = keys[slots]
        tags = (mine[:, 0] & np.uint64(0x7F) | np.uint64(0x80)).astype(np.uint8)
        open_: Slots = np.arange(len(slots))
        for column in (0, 1):
            bucket = self._bucket(mine[:, column])
            left = []
            while len(open_):
                free = ~self._words[bucket[open_]] & _TAKEN
                left.append(open_[free == 0])
                open_, free = open_[free != 0], free[free != 0]
                cells = bucket[open_] * _CELLS + _index(free & (~free + np.uint64(1)))
                self._slots[cells] = slots[open_]
                won = self._slots[cells] == slots[open_]  # of several for one cell, the last written
                self._tags[cells[won]] = tags[open_[won]]
                open_ = open_[~won]
            open_ = np.concatenate(left) if left else open_
        placed = np.ones(len(slots), bool)
        for number in open_:
            placed[number] = self._squeeze_in(keys, int(slots[number]))
        return placed

    def remove(self, keys: Keys, slots: Slots) -> None:
        """Take slots out, all of which are in the table."""
        for start in range(0, len(slots), _BLOCK):
            self._tags[self._cells_of(keys, slots[start : start + _BLOCK])] = 0

    def renumber(self, keys: Keys, slots: Slots, become: Slots) -> None:
        """Give entries other slot numbers; their keys are still read at `slots`."""
        for start in range(0, len(slots), _BLOCK):
            some = slice(start, start + _BLOCK)
            self._slots[self._cells_of(keys, slots[some])] = become[some]

    def _cells_of(self, keys: Keys, slots: Slots) -> Slots:
        mine = keys[slots]
        cells = np.empty(len(slots), np.int64)
        open_: Slots = np.arange(len(slots))
        by_bucket, tags = self._slots.reshape(-1, _CELLS), self._tags.reshape(-1, _CELLS)
        for column in (0, 1):
            bucket = self._bucket(mine[open_, column])
            here = (by_bucket[bucket] == slots[open_, None]) & (tags[bucket] != 0)
            cell = here.argmax(axis=1)
            there = here[np.arange(len(open_)), cell]
            cells[open_[there]] = bucket[there] * _CELLS + cell[there]
            open_ = open_[~there]
        if len(open_):
            raise AssertionError(f"{len(open_)} slots are not in the cache's table")
        return cells

    def _squeeze_in(self, keys: Keys, slot: int) -> bool:
        """Make room in one of a key's full buckets by moving one of its residents to that one's other bucket."""
        tag = 0x80 | int(keys[slot, 0]) & 0x7F
        for column in (0, 1):
            start = (int(keys[slot, column]) >> 32) * self._buckets >> 32 << 3
            for cell in range(start, start + _CELLS):
                resident = int(self._slots[cell])
                for other in (0, 1):
                    away = (int(keys[resident, other]) >> 32) * self._buckets >> 32 << 3
                    empty = -1 if away == start else self._find_tag(b"\0", away, away + _CELLS)
                    if empty >= 0:
                        self._slots[empty], self._tags[empty] = resident, self._tags[cell]
                        self._slots[cell], self._tags[cell] = slot, tag
                        return True
        return False

    def _bucket(self, words: Words) -> Slots:
        return ((words >> np.uint64(32)) * np.uint64(self._buckets) >> np.uint64(32)).astype(np.int64)


def _index(single: Words) -> Slots:
    """Which byte of a word the one set bit, the highest of its byte, is in."""
    return ((single >> np.uint64(7)) * _PLACE >> np.uint64(56)).astype(np.int64)

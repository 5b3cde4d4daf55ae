"""S3-FIFO: a small queue that one-time keys leave quickly, a main queue, and the memory of what was just let go.

After Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction" (SOSP 2023). A new key enters
the small queue (a tenth of the slots); at its end it moves to the main queue if it was asked for again meanwhile, else
it goes, and its fingerprint is remembered. A key that comes back while it is remembered enters the main queue at once.
At the end of the main queue an entry that was hit gets another round, for one hit less; one that was not goes. So a
scan of any length passes through a tenth of the cache and leaves the rest alone.

Done here in batches, on arrays, and with three differences:

- Cost: a hit on an entry that is costly to compute counts for more rounds, one for each doubling of its cost (class in
  `policy`), so that of two that are asked for equally often the cheap one goes first. Without a hit, cost buys nothing:
  a bulk ingest of long texts flushes nothing.
- The memory of what went is a table of 32-bit fingerprints which newer ones overwrite where they fall on the same
  place, instead of a queue: four bytes each, nothing to maintain, and a scan that is longer than the memory doesn't
  wipe all of it.
- While the main queue has room, the small queue's oldest go there rather than away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from embank.cache.keys import Keys
from embank.cache.policies.policy import CLASS_SHIFT, FIRST, FREE, HITS, QUEUE, SECOND, Slots, table_of
from embank.cache.policies.ring import Ring
from embank.cache.slab import Lanes, Pages, paged

_SMALL = 0.1
"""The small queue's part of the slots."""
_SMALL_ROOM = 0.25
"""The part that it may reach between two evictions."""
_REMEMBERED = 1.5
"""Fingerprints of those that went, a slot."""
_MOST_HITS = 3


def _touched(state: int) -> int:
    if not state & QUEUE:
        return state
    gain = 1 + (state >> CLASS_SHIFT & 3)
    return state & ~HITS | min((state & HITS) + gain, _MOST_HITS + gain - 1)


def _promoted(state: int) -> int:
    cost = state >> CLASS_SHIFT & 3
    return SECOND | cost << CLASS_SHIFT | (cost if state & HITS else 0)


_TOUCHED = table_of(_touched)
_PROMOTED = table_of(_promoted)
_TOUCHED_ONE = _TOUCHED.tobytes()
_WORTH = table_of(lambda state: (state & HITS) * 2 + (state & QUEUE == SECOND) if state & QUEUE else 0).tobytes()


class S3Fifo:
    """See the module, and `Policy`."""

    FIELDS: ClassVar[Mapping[str, tuple[str, int]]] = {}

    @staticmethod
    def bytes_for(slots: int) -> int:
        return Ring.bytes_for(slots) + Ring.bytes_for(_small_room(slots)) + paged(4 * _remembered(slots))

    def __init__(self, lanes: Lanes, slots: int) -> None:
        self._small = Ring(0)
        self._main = Ring(0)
        self.resize(lanes, slots)

    def resize(self, lanes: Lanes, slots: int) -> None:
        self._state: npt.NDArray[np.uint8] = lanes["state"]
        self._state_one = lanes.single("state")
        self._least_small = max(int(slots * _SMALL), 1)
        small, main = self._small, self._main
        self._small, self._main = Ring(_small_room(slots)), Ring(slots)
        main.pour(self._main)
        # What the new small queue has no room for is its oldest.
        self._promote(small.pop(max(len(small) - self._small.capacity, 0)))
        small.pour(self._small)
        self._ghosts: npt.NDArray[np.uint32] = Pages(4 * _remembered(slots)).array("<u4", (_remembered(slots),))

    def touch(self, slots: Slots) -> None:
        self._state[slots] = _TOUCHED[self._state[slots]]

    def touch_one(self, slot: int) -> None:
        self._state_one[slot] = _TOUCHED_ONE[self._state_one[slot]]

    def admit(self, slots: Slots, keys: Keys, classes: npt.NDArray[np.uint8]) -> None:
        place, print_ = self._fingerprints(keys)
        known = self._ghosts[place] == print_
        states = classes << np.uint8(CLASS_SHIFT)
        self._state[slots] = states | np.where(known, np.uint8(SECOND), np.uint8(FIRST))
        self._main.push(slots[known])
        new = slots[~known]
        for start in range(0, len(new), self._small.capacity):
            some = new[start : start + self._small.capacity]
            self._promote(self._small.pop(max(len(self._small) + len(some) - self._small.capacity, 0)))
            self._small.push(some)

    def evict(self, wanted: int, keys: Keys) -> Slots:
        victims: list[Slots] = []
        missing = wanted
        while missing > 0 and len(self._small) + len(self._main):
            spare = len(self._small) - self._least_small
            if spare > 0 or not len(self._main):
                slots = self._small.pop(min(missing, max(spare, 1)))
                again = (self._state[slots] & HITS) > 0
                self._promote(slots[again])
                slots = slots[~again]
                place, print_ = self._fingerprints(keys[slots])
                self._ghosts[place] = print_
            else:
                slots = self._main.pop(missing)
                state = self._state[slots]
                again = (state & HITS) > 0
                kept = slots[again]
                self._state[kept] = state[again] - 1
                self._main.push(kept)
                slots = slots[~again]
            victims.append(slots)
            missing -= len(slots)
        return np.concatenate(victims) if victims else np.empty(0, np.int64)

    def forget(self) -> None:
        for ring in (self._small, self._main):
            ring.keep(lambda slots: slots[(self._state[slots] & QUEUE) != FREE])

    def renumber(self, least: int, slots: Slots, become: Slots) -> None:
        gone = len(self._state)
        names = np.full(int(slots.max(initial=least)) + 2 - least, gone)  # the last for all that lie beyond
        names[slots - least] = become

        def renamed(ring: Slots) -> Slots:
            high = ring >= least
            ring[high] = names[np.minimum(ring[high] - least, len(names) - 1)]
            left: Slots = ring[ring != gone]
            return left

        for ring in (self._small, self._main):
            ring.keep(renamed)

    def worth(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        # A translation of bytes takes a tenth of the time of numpy's indexing.
        return np.frombuffer(self._state[start:stop].tobytes().translate(_WORTH), np.uint8)

    def _promote(self, slots: Slots) -> None:
        """From the small queue into the main one; hits begin anew, with what cost adds to the one that it took."""
        self._state[slots] = _PROMOTED[self._state[slots]]
        self._main.push(slots)

    def _fingerprints(self, keys: Keys) -> tuple[Slots, npt.NDArray[np.uint32]]:
        """Where a key is remembered, and by what, never 0. The bits differ from those that the table uses."""
        place = (keys[:, 0] & np.uint64(0xFFFFFFFF)) * np.uint64(len(self._ghosts)) >> np.uint64(32)
        return place.astype(np.int64), keys[:, 1].astype(np.uint32) | np.uint32(1)


def _small_room(slots: int) -> int:
    return max(int(slots * _SMALL_ROOM), 1)


def _remembered(slots: int) -> int:
    return max(int(slots * _REMEMBERED), 16)

"""Least recently used, exactly: every touch gives a slot the next number, and the lowest numbers go.

Finding the lowest is done for a thirty-second of the cache at a time: that many are picked out and put in order once,
and handed out one after the other; one that was touched since then is passed over. What was not picked has a higher
number than all that were, so the order is the same as with a list. Cost plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from embank.cache.keys import Keys
from embank.cache.policies.policy import CLASS_SHIFT, FIRST, QUEUE, Slots
from embank.cache.slab import Lanes, Pages, paged

_PICKED = 32
"""One in so many is picked at a time."""
_NEVER = np.uint32(0xFFFFFFFF)
_RENEW = 1 << 31


class Lru:
    """See the module, and `Policy`."""

    FIELDS: ClassVar[Mapping[str, tuple[str, int]]] = {"tick": ("<u4", 1)}

    @staticmethod
    def bytes_for(slots: int) -> int:
        return paged(4 * slots) + paged(slots) + 12 * (slots // _PICKED + 1)

    def __init__(self, lanes: Lanes, slots: int) -> None:
        self._tick = 1
        self._picked: npt.NDArray[np.uint32]
        self._picked_ticks: npt.NDArray[np.uint32]
        self.resize(lanes, slots)

    def resize(self, lanes: Lanes, slots: int) -> None:
        self._state: npt.NDArray[np.uint8] = lanes["state"]
        self._ticks: npt.NDArray[np.uint32] = lanes["tick"]
        self._tick_one = lanes.single("tick")
        self._slots = slots
        self._scratch: npt.NDArray[np.uint32] = Pages(4 * slots).array("<u4", (slots,))
        self._mask: npt.NDArray[np.bool_] = Pages(slots).array("?", (slots,))
        self._drop_picked()

    def touch(self, slots: Slots) -> None:
        self._ticks[slots] = np.arange(self._tick, self._tick + len(slots), dtype=np.uint32)
        self._advance(len(slots))

    def touch_one(self, slot: int) -> None:
        self._tick_one[slot] = self._tick
        self._advance(1)

    def admit(self, slots: Slots, keys: Keys, classes: npt.NDArray[np.uint8]) -> None:
        del keys
        self._state[slots] = classes << np.uint8(CLASS_SHIFT) | np.uint8(FIRST)
        self.touch(slots)

    def evict(self, wanted: int, keys: Keys) -> Slots:
        del keys
        victims: list[Slots] = []
        missing = wanted
        while missing > 0:
            if self._next >= len(self._picked) and not self._pick(missing):
                break
            some = slice(self._next, self._next + missing)
            slots = self._picked[some]
            slots = slots[self._ticks[slots] == self._picked_ticks[some]].astype(np.int64)
            self._next += missing
            self._ticks[slots] = _NEVER
            victims.append(slots)
            missing -= len(slots)
        return np.concatenate(victims) if victims else np.empty(0, np.int64)

    def forget(self) -> None:
        self._drop_picked()  # picking looks at states again

    def renumber(self, least: int, slots: Slots, become: Slots) -> None:
        del least, slots, become  # numbers moved with their slots
        self._drop_picked()

    def worth(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """By age, in 256 steps of the numbers given out while the oldest entry was there."""
        ticks = self._ticks[start:stop].astype(np.float64)
        oldest = float(self._oldest())
        return np.clip((ticks - oldest) * (255 / max(self._tick - oldest, 1)), 0, 255).astype(np.uint8)

    def _pick(self, wanted: int) -> bool:
        """Pick the oldest out and put them in order; whether there are any."""
        scratch = self._present()
        count = min(max(len(scratch) // _PICKED, 1), len(scratch)) if wanted <= len(scratch) // _PICKED else wanted
        count = min(count, int(np.count_nonzero(np.not_equal(scratch, _NEVER, out=self._mask[: len(scratch)]))))
        self._drop_picked()
        if not count:
            return False
        scratch.partition(count - 1)
        last = scratch[count - 1]
        slots = np.less_equal(self._present(), last, out=self._mask[: len(scratch)]).nonzero()[0]
        order = self._ticks[slots].argsort()
        self._picked, self._picked_ticks = slots[order].astype(np.uint32), self._ticks[slots[order]]
        return True

    def _present(self) -> npt.NDArray[np.uint32]:
        """Every slot's number, the highest there is for those in no order, in the scratch lane."""
        count = min(self._slots, len(self._ticks))
        scratch, mask = self._scratch[:count], self._mask[:count]
        np.copyto(scratch, self._ticks[:count])
        state = self._state[:count]
        np.less(state & np.uint8(QUEUE), np.uint8(FIRST), out=mask)  # free
        scratch[mask] = _NEVER
        np.greater_equal(state, np.uint8(QUEUE), out=mask)  # being written
        scratch[mask] = _NEVER
        return scratch

    def _oldest(self) -> int:
        return int(self._present().min(initial=int(_NEVER)))

    def _advance(self, count: int) -> None:
        self._tick += count
        if self._tick >= _RENEW:  # after two thousand million touches, numbers begin again, in the same order
            ticks = self._ticks[: self._slots]
            ticks[ticks.argsort()] = np.arange(1, len(ticks) + 1, dtype=np.uint32)
            self._tick = len(ticks) + 1
            self._drop_picked()

    def _drop_picked(self) -> None:
        self._picked = self._picked_ticks = np.empty(0, np.uint32)
        self._next = 0

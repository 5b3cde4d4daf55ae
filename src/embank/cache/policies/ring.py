"""A bounded queue of slot numbers in an array: four bytes each, pushed and popped by whole batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from embank.cache.slab import Pages, paged

Slots = npt.NDArray[np.int64]

_BLOCK = 8_192


class Ring:
    """First in, first out, up to `capacity`. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._array: npt.NDArray[np.uint32] = Pages(4 * capacity).array("<u4", (capacity,))
        self._first = 0
        self._count = 0

    @staticmethod
    def bytes_for(capacity: int) -> int:
        return paged(4 * capacity)

    def __len__(self) -> int:
        return self._count

    def push(self, slots: Slots) -> None:
        """At the end, in this order. They must fit."""
        if len(slots) > self.capacity - self._count:
            raise AssertionError(f"{len(slots)} slots do not fit a queue with {self._count} of {self.capacity}")
        start = (self._first + self._count) % self.capacity if len(slots) else 0
        head = min(len(slots), self.capacity - start)
        self._array[start : start + head] = slots[:head]
        self._array[: len(slots) - head] = slots[head:]
        self._count += len(slots)

    def pop(self, count: int) -> Slots:
        """The oldest, at most `count` of them, oldest first."""
        count = min(count, self._count)
        head = min(count, self.capacity - self._first)
        parts = (self._array[self._first : self._first + head], self._array[: count - head])
        slots = np.concatenate(parts).astype(np.int64)
        self._first = (self._first + count) % max(self.capacity, 1)
        self._count -= count
        return slots

    def keep(self, kept: Callable[[Slots], Slots]) -> None:
        """Put each block of slots through `kept`, which returns those that stay, perhaps renamed, in order."""
        for _ in range(left := self._count, 0, -_BLOCK):
            some = self.pop(min(_BLOCK, left))
            left -= len(some)
            self.push(kept(some))

    def pour(self, other: Ring) -> None:
        """Move all of it to the end of another."""
        while self._count:
            other.push(self.pop(_BLOCK))

"""Reading one process's memory at the end of an operation, in three measures, without what warm-ups took.

`own` is the anonymous memory that the process holds; `level` that less what consumers say they hold; `used` that less
what the allocator's heap has free. A leak first takes up what had been freed before: for a while it shows in `used`
alone. Hoarding shows in `level` alone.

Not thread-safe; its owner lets one thread at a time read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from embank.memory.creep.growth import Point
from embank.memory.trim import free as allocator_free
from embank.system.clock import Clock

_SLOW_S = 0.0005
_SLOW_IN_A_ROW = 5
"""Once may be the machine's doing."""
_WATCHES_WITH = "numpy"


def heap_free() -> int | None:
    """What glibc's heap has free, by its own books; None where it can't be asked. Some 30 µs."""
    free = allocator_free()
    return None if free is None else free.heap_bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """Memory as it was read; `used_bytes` is None where the allocator can't be asked."""

    own_bytes: int
    level_bytes: int
    used_bytes: int | None


class Readings:
    """See the module. `read`, `managed_bytes` and `free` answer bytes; `read` None where there is no /proc."""

    def __init__(
        self,
        *,
        read: Callable[[], int | None],
        managed_bytes: Callable[[], int],
        free: Callable[[], int | None],
        clock: Clock,
    ) -> None:
        self._read = read
        self._managed_bytes = managed_bytes
        self._free = free
        self._clock = clock
        self._slow = 0
        self._before: Raw | None = None
        self._warmed = Raw(0, 0, 0)
        self._last_s = float("-inf")
        self.taken = 0
        self.last_bytes: int | None = None
        self.peak_bytes = 0

    def take(self) -> Raw | None:
        """Memory now, or None where it can't be read."""
        raw = self._raw()
        if raw is not None:
            self.taken += 1
            self.last_bytes, self.peak_bytes = raw.own_bytes, max(self.peak_bytes, raw.own_bytes)
        return raw

    def mark(self) -> None:
        """Remember what is held now, before an operation that warms up."""
        raw = self._raw()
        if raw is not None:
            self._before = raw

    def warm(self, now: Raw) -> None:
        """What grew since the mark, or the reading before, is a warm-up's, and is not counted."""
        if self._before is not None:
            self._shift(self._before, now)
        self._before = now

    def point(self, now: Raw, *, operations: int, counts: Sequence[int]) -> Point:
        """What is counted of a reading. A clock that went backwards stands still."""
        self._before = now
        self._last_s = max(self._clock.monotonic(), self._last_s)
        warmed = self._warmed
        used = None if now.used_bytes is None or warmed.used_bytes is None else now.used_bytes - warmed.used_bytes
        own, level = now.own_bytes - warmed.own_bytes, now.level_bytes - warmed.level_bytes
        return Point(operations, self._last_s, own, level, used, tuple(counts))

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Around what may import numpy for the watch's own sake: what that takes is not counted."""
        before = None if _WATCHES_WITH in sys.modules else self._raw()
        try:
            yield
        finally:
            after = self._raw() if before is not None and _WATCHES_WITH in sys.modules else None
            if before is not None and after is not None:
                self._shift(before, after)

    def _shift(self, before: Raw, now: Raw) -> None:
        """What was given back meanwhile counts: else whoever takes it up again would seem to have grown by it."""
        warmed = self._warmed
        used = None
        if None not in (warmed.used_bytes, before.used_bytes, now.used_bytes):
            used = (warmed.used_bytes or 0) + max((now.used_bytes or 0) - (before.used_bytes or 0), 0)
        self._warmed = Raw(
            warmed.own_bytes + max(now.own_bytes - before.own_bytes, 0),
            warmed.level_bytes + max(now.level_bytes - before.level_bytes, 0),
            used,
        )

    def _raw(self) -> Raw | None:
        own = self._read()
        if own is None:
            return None
        level = own - self._managed_bytes()
        free = self._heap_free()
        return Raw(own, level, None if free is None else level - free)

    def _heap_free(self) -> int | None:
        """Not asked any more once it took long again and again, as it does with very many fragments."""
        if self._slow >= _SLOW_IN_A_ROW:
            return None
        began_s = self._clock.monotonic()
        free = self._free()
        self._slow = self._slow + 1 if self._clock.monotonic() - began_s > _SLOW_S else 0
        return free

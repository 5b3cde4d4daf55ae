"""When memory rose by much within a few operations, and that is new.

A rise is taken between the lowest of the last few readings and now. It is told where the process also holds more, by as
much, than at any of the readings before those: an allocator that was trimmed, or a writer that was closed and opened
again, climbs back to where it was, and to ask every consumer for memory then would empty the caches for nothing, again
and again, since what was given back is what rises next.

Not thread-safe.
"""

from __future__ import annotations

from collections import deque

from embank.memory.creep.growth import Point

_REMEMBERED = 1_000
"""Over so many operations what was held before is remembered."""


class Jumps:
    """Rises above `least_bytes` within `operations`."""

    def __init__(self, least_bytes: int, operations: int) -> None:
        self._least_bytes = least_bytes
        self._operations = operations
        self._latest: deque[Point] = deque()
        self._peaks: deque[tuple[int, int]] = deque()
        """Operations, and what was held after them, of readings before the latest: each lower than the one before it,
        so that the first is the highest, and the next one takes its place once it is too old."""

    def clear(self) -> None:
        """Begin anew: what rose until now was told, or was a warm-up's."""
        self._latest.clear()

    def look(self, now: Point) -> int | None:
        """By how many bytes memory rose, where that is too much; not told twice."""
        latest, peaks = self._latest, self._peaks
        while latest and now.operations - latest[0].operations > self._operations:
            self._remember(latest.popleft())
        while peaks and now.operations - peaks[0][0] > _REMEMBERED:
            peaks.popleft()
        # Both must have risen: a consumer whose bytes the allocator keeps makes the one rise, one that fills the other.
        rises = (min(now.own_bytes - each.own_bytes, now.level_bytes - each.level_bytes) for each in latest)
        risen = max(rises, default=0)
        if peaks:
            risen = min(risen, now.own_bytes - peaks[0][1])
        jumped = risen > self._least_bytes
        if jumped:
            latest.clear()
        latest.append(now)
        return risen if jumped else None

    def _remember(self, point: Point) -> None:
        while self._peaks and self._peaks[-1][1] <= point.own_bytes:
            self._peaks.pop()
        self._peaks.append((point.operations, point.own_bytes))

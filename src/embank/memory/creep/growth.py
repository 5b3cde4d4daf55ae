"""Readings of memory over operations, kept within bounds, and when growth in them is creep.

A point is the *least* of two readings, in each measure: what is held for a moment is not old. The latest points are
kept as they are; all of them once more, halved (the least of each two) whenever they become too many, so that slow
creep over millions of operations is seen as well as fast creep over a thousand.

Growth is creep when it goes on: it stands the tests of `trend.py` (drift from segment to segment, then the interval of
the Theil-Sen slope), no single step makes up most of it, and the second half has its share. A plateau that an allocator
climbs to, a cache that warms up and a sawtooth do not.

Knows numbers only. Not thread-safe.
"""

from __future__ import annotations

import struct
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from embank.memory.creep.trend import SEGMENTS, drift_p, steps, theil_sen

Measure = Literal["level", "used", "managed"]

_LARGEST_STEP = 0.4
"""A single step between segments that makes up more than this of the growth is a step, not creep."""
_LATE_SHARE = 0.45
"""At least so much of the growth falls into the second half."""


@dataclass(frozen=True, slots=True)
class Point:
    """Memory after so many operations, without what warm-ups took. `own_bytes` is all that the process holds.

    `level_bytes` is unmanaged memory, `used_bytes` that less what the allocator's heap has free: a leak that first
    takes up what had been freed shows only there (None where it can't be asked). `counts` are operations ended so far,
    by the number of their kind.
    """

    operations: int
    at_s: float
    own_bytes: int
    level_bytes: int
    used_bytes: int | None
    counts: tuple[int, ...]

    def merged(self, later: Point) -> Point:
        """One for both; of the one with the lower level are the counts, lest it is held against later operations."""
        lower = self if self.level_bytes <= later.level_bytes else later
        return Point(
            lower.operations,
            later.at_s,
            min(self.own_bytes, later.own_bytes),
            min(self.level_bytes, later.level_bytes),
            None if self.used_bytes is None or later.used_bytes is None else min(self.used_bytes, later.used_bytes),
            lower.counts,
        )


def measured(point: Point, measure: Measure) -> int | None:
    """A point by one measure. `managed` is what is used, consumers' bytes included; None where it can't be told."""
    if measure == "level":
        return point.level_bytes
    if measure == "used" or point.used_bytes is None:
        return point.used_bytes
    return point.used_bytes + point.own_bytes - point.level_bytes


_HEAD = struct.Struct("<qdqqq?")
"""A point but for its counts: `used_bytes`, and whether it is known, come last."""


def _packed(point: Point) -> bytes:
    """A point in one block of Python's allocator instead of a dozen: hundreds of them are kept for good."""
    used = point.used_bytes
    head = _HEAD.pack(point.operations, point.at_s, point.own_bytes, point.level_bytes, used or 0, used is not None)
    return head + array("q", point.counts).tobytes()


def _unpacked(kept: bytes) -> Point:
    operations, at_s, own, level, used, knows = _HEAD.unpack_from(kept)
    counts = array("q", kept[_HEAD.size :])
    return Point(operations, at_s, own, level, used if knows else None, tuple(counts))


class History:
    """See the module: the latest points, and all of them, at most `most` of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._recent: deque[bytes] = deque(maxlen=most)
        self._whole: list[bytes] = []
        self._stride = 1
        self._half: Point | None = None
        self._part: Point | None = None
        self._parts = 0

    def __len__(self) -> int:
        """Of the latest points."""
        return len(self._recent)

    def add(self, reading: Point) -> bool:
        """Take a reading in; whether it completed a point."""
        if self._half is None:
            self._half = reading
            return False
        point = self._half.merged(reading)
        self._half = None
        self._recent.append(_packed(point))
        self._keep(point)
        return True

    def recent(self) -> list[Point]:
        """The latest points, in order."""
        return [_unpacked(kept) for kept in self._recent]

    def at(self, place: int) -> Point:
        """One of the latest points, counted as in a list."""
        return _unpacked(self._recent[place])

    def windows(self, least: int) -> Iterator[list[Point]]:
        """What creep is sought in: everything and the later half of it, the latest points and the later half of these.

        A leak that began late is lost in all that went before it, and may be single steps in the latest points alone.
        """
        whole = self._whole if self._stride > 1 else []
        for part in (whole, whole[-(len(whole) // 2) :]):
            if len(part) >= least:
                yield [_unpacked(kept) for kept in part]
        recent = self.recent()
        if len(recent) >= least:
            yield recent
        if len(recent) == self._most and self._most // 2 >= least:
            yield recent[-self._most // 2 :]

    def before(self, operations: int) -> Point | None:
        """The latest of the recent points that is at least so many operations older than the last."""
        if not self._recent:
            return None
        mark = _operations(self._recent[-1]) - operations
        found = next((kept for kept in reversed(self._recent) if _operations(kept) <= mark), None)
        return None if found is None else _unpacked(found)

    def most_own_bytes(self, operations: int) -> int:
        """The most that the process held at one of the recent points until so many operations were done; 0 for none."""
        return max((_own_bytes(kept) for kept in self._recent if _operations(kept) <= operations), default=0)

    def _keep(self, point: Point) -> None:
        self._part = point if self._part is None else self._part.merged(point)
        self._parts += 1
        if self._parts < self._stride:
            return
        self._whole.append(_packed(self._part))
        self._part, self._parts = None, 0
        if len(self._whole) > self._most:
            pairs = zip(self._whole[::2], self._whole[1::2], strict=False)
            self._part = _unpacked(self._whole[-1]) if len(self._whole) % 2 else None
            self._parts = self._stride if self._part is not None else 0
            self._whole = [_packed(_unpacked(earlier).merged(_unpacked(later))) for earlier, later in pairs]
            self._stride *= 2


def _operations(kept: bytes) -> int:
    return int.from_bytes(kept[:8], "little", signed=True)


def _own_bytes(kept: bytes) -> int:
    return int.from_bytes(kept[16:24], "little", signed=True)


def rise(operations: Sequence[int], values: Sequence[int], *, least_bytes: int, confidence: float) -> float | None:
    """The slope (Theil-Sen) of values that rise steadily, by the rules of the module; None where they don't.

    The costly test comes last.
    """
    if len(values) < 2 * SEGMENTS:
        return None
    found = steps(values, of=min)
    growth = sum(found)
    if growth < least_bytes or max(found) > _LARGEST_STEP * growth:
        return None
    if sum(found[len(found) // 2 :]) < _LATE_SHARE * growth or drift_p(found) > 1 - confidence:
        return None
    slope = theil_sen(operations, values, confidence=confidence)
    return slope.slope if slope.low > 0 else None

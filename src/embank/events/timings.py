"""How long things took, in few numbers: counts in buckets whose bounds grow by a quarter, from half a millisecond on.

Any percentile is told from them to within an eighth, whatever the number of things timed; memory is some hundred
numbers. Times beyond the last bound (about two minutes) are counted there.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from itertools import accumulate

_LEAST_S = 0.000_5
_RATIO = 1.25
BOUNDS_S: tuple[float, ...] = tuple(_LEAST_S * _RATIO**step for step in range(57))


class Timings:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self.count = 0
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one more."""
        place = bisect.bisect_left(BOUNDS_S, seconds)
        with self._lock:
            self._counts[place] += 1
            self.count += 1
            self.sum_s += seconds

    def quantile_s(self, part: float) -> float:
        """The time within which `part` of all was done; 0 where there is none."""
        with self._lock:
            counts = list(self._counts)
        rank = part * sum(counts)
        if rank <= 0:
            return 0.0
        before = 0
        for place, count in enumerate(counts):
            if count and before + count >= rank:
                low = BOUNDS_S[place - 1] if place else 0.0
                high = BOUNDS_S[min(place, len(BOUNDS_S) - 1)]
                return low + (high - low) * (rank - before) / count
            before += count
        raise AssertionError("unreachable")

    def cumulated(self, every: int = 4) -> Iterator[tuple[float, int]]:
        """Upper bounds in seconds, of every so many buckets, and how many were done within each."""
        with self._lock:
            sums = list(accumulate(self._counts))
        for place in range(every - 1, len(BOUNDS_S), every):
            yield BOUNDS_S[place], sums[place]

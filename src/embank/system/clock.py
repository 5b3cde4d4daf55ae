"""Time, injectable: every schedule, window and time-out is tested without sleeping."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds. `now` is wall time since the epoch, `monotonic` never goes backwards."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Stopwatch:
    """Seconds since it was made, by a clock that may be set back: what it goes back does not count.

    A system's own monotonic clock never does; one that is handed in, or a virtual machine's after it was moved, may.
    Not thread-safe.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_s = clock.monotonic()
        self._passed_s = 0.0

    def passed_s(self) -> float:
        """How long it has been; never less than the last time."""
        now_s = self._clock.monotonic()
        self._passed_s += max(now_s - self._read_s, 0.0)
        self._read_s = now_s
        return self._passed_s

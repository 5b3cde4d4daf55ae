"""Tracing Python's allocations for a while: which lines of code hold more at the end of it than before.

`tracemalloc` slows Python code to about half and keeps a record of every block, so it runs for a bounded time, within
bounded memory, and is *always* stopped: by `finish`, by a timer when no operation comes any more, by whoever finds its
books too large, in a forked child, and when this object is closed. Where somebody else traces already it is left alone.

The comparison is between a mark set some way into the tracing and its end: what the first part allocated and the second
gave back again is no growth. One frame a block. Blocks of this package's own watching are left out. What a C extension
takes from `malloc` without telling Python is not seen; numpy's arrays are.
"""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

from embank.system.background import Background
from embank.system.clock import Clock

_TOP = 10
_OWN = str(Path(__file__).parent / "*")
_SNAPSHOT_SHARE = 2
"""A snapshot takes about as much again as the books that it copies."""


@dataclass(frozen=True, slots=True)
class Location:
    """A line of code, and by how many bytes and blocks it holds more than at the mark."""

    file: str
    line: int
    bytes: int
    blocks: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Traced:
    """What came of a tracing. `grown_bytes` over all lines, `top` those that grew most; `ended` says why it ended.

    `ended`: finished, time, memory, fork or closed. Only a finished one has figures.
    """

    ended: str
    top: tuple[Location, ...] = ()
    grown_bytes: int = 0
    books_bytes: int = 0


class Tracing:
    """One tracing at a time. Thread-safe. Never raises for tracemalloc's sake but `MemoryError`."""

    def __init__(self, *, most_s: float, most_bytes: int, clock: Clock) -> None:
        self._most_s = most_s
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._mine = False
        self._due_s = 0.0
        self._ended = ""
        self._marked: dict[tuple[str, int], tuple[int, int]] | None = None
        self._timer = Background("embank-tracing", self._turn, clock=clock)

    @property
    def active(self) -> bool:
        """Whether it runs."""
        return self._mine

    def start(self) -> bool:
        """Begin. False where somebody traces already, this object included."""
        with self._lock:
            if tracemalloc.is_tracing():
                return False
            tracemalloc.start(1)
            self._mine, self._ended, self._marked = True, "", None
            self._due_s = self._clock.monotonic() + self._most_s
        self._timer.wake()
        return True

    def mark(self) -> None:
        """Growth counts from here on."""
        with self._lock:
            if self._within_bounds():
                self._marked = _held()

    def check(self) -> bool:
        """Whether it still runs; ends it where it takes too long or too much."""
        with self._lock:
            return self._within_bounds()

    def finish(self) -> Traced:
        """End it; what grew since the mark, or since the start without one."""
        with self._lock:
            if not self._within_bounds():
                return Traced(self._ended or "closed")
            books = tracemalloc.get_tracemalloc_memory()
            try:
                now = _held()
            finally:
                self._stop("finished")
            before, self._marked = self._marked or {}, None
        grown = []
        for place, (size, blocks) in now.items():
            size_before, blocks_before = before.pop(place, (0, 0))
            grown.append(Location(*place, size - size_before, blocks - blocks_before))
        grown += [Location(*place, -size, -blocks) for place, (size, blocks) in before.items()]
        top = sorted((each for each in grown if each.bytes > 0), key=lambda each: -each.bytes)[:_TOP]
        return Traced("finished", tuple(top), sum(each.bytes for each in grown), books)

    def close(self) -> None:
        """Stop tracing, if it is this one, and end the timer. May be repeated."""
        with self._lock:
            self._stop("closed")
        self._timer.close()

    def forget(self) -> None:
        """In a forked child: stop what was inherited. The lock may have been held by a thread that is not there."""
        self._lock = threading.Lock()
        self._stop("fork")
        self._timer = Background("embank-tracing", self._turn, clock=self._clock)

    def _within_bounds(self) -> bool:
        if not self._mine:
            return False
        if not tracemalloc.is_tracing():  # somebody else stopped it
            self._mine, self._ended = False, "closed"
        elif self._clock.monotonic() >= self._due_s:
            self._stop("time")
        elif tracemalloc.get_tracemalloc_memory() * _SNAPSHOT_SHARE > self._most_bytes:
            self._stop("memory")
        return self._mine

    def _stop(self, why: str) -> None:
        if self._mine:
            self._mine, self._ended, self._marked = False, why, self._marked if why == "finished" else None
            tracemalloc.stop()

    def _turn(self) -> float | None:
        with self._lock:
            return self._due_s if self._within_bounds() else None


def _held() -> dict[tuple[str, int], tuple[int, int]]:
    """Bytes and blocks by file and line."""
    filters = [tracemalloc.Filter(inclusive=False, filename_pattern=each) for each in (_OWN, tracemalloc.__file__)]
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for each in tracemalloc.take_snapshot().filter_traces(filters).statistics("lineno"):
        frame = each.traceback[0]
        found[frame.filename, frame.lineno] = (each.size, each.count)
    return found

"""A cache of things with a weight: answers to searches, answers of language models; least recently used go first.

The limit counts what the caller says that a value weighs, and what it takes beside that: key, mark, bookkeeping.
A value is kept under a key together with a *mark*, which says of which state it is: asked for with another mark it is a
miss, and what is put then takes its place. So an entry is never answered out of another state, and the dead don't fill
the cache. The value is handed out as it was handed in: hand in what can't be changed.

With a governor the cache is registered on the rung `release`, gives way when asked, and takes in nothing for which the
budget has no room. It never fails a request for want of memory. Thread-safe.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from embank.cache.allotment import allotment
from embank.events.caches import CacheCleared, CacheShrunk
from embank.events.event import Event
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.system.clock import Clock, SystemClock

V = TypeVar("V")

ENTRY_BYTES = 320
"""What an entry takes beside its key, mark and value: its object and numbers, and its place in the ordered table."""
_ASK_AGAIN_S = 0.25
"""For so long the governor's word is good: asking it reads the kernel's figures."""
_NOMINAL_S = 1e-3
"""Stands for what a value cost where nobody measured it; never reported as saved."""


@dataclass(frozen=True, slots=True)
class WeighedStats:
    """A cache at one moment. Counters are exact, and since the cache began.

    `stale` of the `misses` found an entry with another mark. `rejected` values found no room. `seconds_saved` is what
    hits would have cost, as far as it was measured. Ages are in seconds: of the oldest entry, and of all on average.
    """

    hits: int
    misses: int
    stale: int
    inserted: int
    evictions: int
    rejected: int
    entries: int
    used_bytes: int
    limit_bytes: int
    hit_rate: float
    seconds_saved: float
    oldest_age_s: float
    mean_age_s: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values."""
        return dataclasses.asdict(self)


@dataclass(slots=True, eq=False)
class _Entry(Generic[V]):
    value: V
    mark: bytes
    weight_bytes: int
    seconds: float
    since_s: float


class WeighedCache(Generic[V]):
    """See the module; follows the governor's `Consumer`. A limit of 0 bytes turns it off."""

    def __init__(
        self,
        name: str,
        limit_bytes: int,
        *,
        governor: Governor | None = None,
        clock: Clock | None = None,
        stream: Stream | None = None,
    ) -> None:
        self.name = name
        self._limit_bytes = limit_bytes
        self._governor, self._stream = governor, stream
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry[V]] = OrderedDict()
        self._used_bytes = 0
        self._hits = self._misses = self._stale = self._inserted = self._evictions = self._rejected = 0
        self._saved_s = 0.0
        self._consented_bytes, self._ask_at_s = 0, -math.inf
        self._registration = None if governor is None else governor.register(self, rung="release")

    def get(self, key: bytes, mark: bytes = b"") -> V | None:
        """The value put under this key and mark; `None` where there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.mark != mark:
                self._misses += 1
                self._stale += entry is not None
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            self._saved_s += entry.seconds
            return entry.value

    def put(self, key: bytes, value: V, weight_bytes: int, *, mark: bytes = b"", seconds: float = 0.0) -> bool:
        """Keep a value that weighs so much and took so long; in place of what is under the key. Whether it was kept."""
        wanted_bytes = ENTRY_BYTES + sys.getsizeof(key) + sys.getsizeof(mark) + weight_bytes
        consented_bytes = self._consented()
        with self._lock:
            # Without consent it stays as large as it is, and what is new takes the place of what is old.
            most_bytes = min(self._limit_bytes, max(consented_bytes, self._used_bytes))
            self._take_out(key)
            if wanted_bytes > most_bytes:
                self._rejected += 1
                return False
            self._shrink_to(most_bytes - wanted_bytes)
            self._entries[key] = _Entry(value, mark, wanted_bytes, seconds, self._clock.monotonic())
            self._used_bytes += wanted_bytes
            self._inserted += 1
            return True

    def forget(self, key: bytes) -> None:
        """Drop what is kept under the key, if anything is."""
        with self._lock:
            self._take_out(key)

    def clear(self) -> int:
        """Forget everything; the bytes freed."""
        with self._lock:
            freed_bytes, self._used_bytes = self._used_bytes, 0
            self._entries = OrderedDict()
        self._publish(CacheCleared(self.name, "", freed_bytes, at=self._clock.now()))
        return freed_bytes

    def used_bytes(self) -> int:
        """What it holds now, all counted."""
        return self._used_bytes

    def release(self, wanted_bytes: int) -> int:
        """Give up at least so many bytes where there are so many, what was least recently used first."""
        if wanted_bytes <= 0:
            return 0
        began_s = self._clock.monotonic()
        with self._lock:
            freed_bytes = self._shrink_to(max(self._used_bytes - wanted_bytes, 0))
        seconds = self._clock.monotonic() - began_s
        self._publish(CacheShrunk(self.name, "release", wanted_bytes, freed_bytes, seconds, at=self._clock.now()))
        return freed_bytes

    def rebuild_cost(self) -> float:
        """Seconds that a megabyte of entries took."""
        with self._lock:
            seconds = sum(entry.seconds or _NOMINAL_S for entry in self._entries.values())
            return seconds / max(self._used_bytes / 1e6, 1e-6)

    @property
    def limit_bytes(self) -> int:
        """The limit. May be set at any time; a lower one is kept to at once."""
        return self._limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, limit_bytes: int) -> None:
        with self._lock:
            self._limit_bytes = limit_bytes
            self._shrink_to(limit_bytes)

    def stats(self) -> WeighedStats:
        """Counters, bytes and ages, as of now."""
        with self._lock:
            now_s = self._clock.monotonic()
            ages = [max(now_s - entry.since_s, 0.0) for entry in self._entries.values()]
            return WeighedStats(
                hits=self._hits,
                misses=self._misses,
                stale=self._stale,
                inserted=self._inserted,
                evictions=self._evictions,
                rejected=self._rejected,
                entries=len(ages),
                used_bytes=self._used_bytes,
                limit_bytes=self._limit_bytes,
                hit_rate=self._hits / max(self._hits + self._misses, 1),
                seconds_saved=self._saved_s,
                oldest_age_s=max(ages, default=0.0),
                mean_age_s=sum(ages) / max(len(ages), 1),
            )

    def close(self) -> None:
        """Give everything back, keep nothing from now on, and leave the governor. Closing again does nothing."""
        if self._registration is not None:
            self._registration.close()
        self.limit_bytes = 0

    def _take_out(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used_bytes -= entry.weight_bytes

    def _shrink_to(self, most_bytes: int) -> int:
        """Drop the least recently used until no more than so much is held; the bytes freed."""
        before_bytes = self._used_bytes
        while self._used_bytes > most_bytes:
            _, entry = self._entries.popitem(last=False)
            self._used_bytes -= entry.weight_bytes
            self._evictions += 1
        if not self._entries:
            self._entries = OrderedDict()  # a table does not shrink by itself
        return before_bytes - self._used_bytes

    def _consented(self) -> int:
        """How much it may hold as far as the governor is concerned."""
        if self._governor is None or not self._limit_bytes:
            return self._limit_bytes
        now_s = self._clock.monotonic()
        if now_s >= self._ask_at_s:
            self._ask_at_s = now_s + _ASK_AGAIN_S
            self._consented_bytes = allotment(self._governor, used_bytes=self._used_bytes)
        return self._consented_bytes

    def _publish(self, event: Event) -> None:
        if self._stream is not None:
            self._stream.publish(event)

"""What plain LRU in the same bytes would have hit, told from a sample of the keys.

A list of least recent use over a fixed sample of all keys, with the same part of the bytes, hits about as often as a
whole one (Waldspurger et al., SHARDS, FAST 2015). Keys differ in how often they are asked for, so that a sample has a
little more or less of the traffic than its part: as in SHARDS-adj, the difference is counted as hits, since it is the
few very frequent keys that make it. One key in 64 is sampled where entries are of 800 bytes, more where they are wider
and less where they are narrower, so that the list takes a 256th of the limit. In a cache of a few megabytes that is a
small sample: its rate is then off by some points. Not thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from embank.cache.keys import Keys

PART = 256
"""The list takes at most one in so many bytes of the cache's limit."""
_ENTRY_BYTES = 180
"""Of the list itself, an entry: measured with CPython 3.11, growth of the dictionary included."""
_LEAST_SAMPLED = 16


class Shadow:
    """See the module. `limit_bytes` is the cache's, `entry_bytes` what its entries take."""

    def __init__(self, limit_bytes: int, entry_bytes: int) -> None:
        sampled = _LEAST_SAMPLED
        while sampled * entry_bytes < PART * _ENTRY_BYTES:
            sampled *= 2
        self.sampled = sampled
        """One key in so many, a power of two."""
        self.mask = sampled - 1
        self.asked = 0
        """Look-ups in all, sampled or not."""
        self._word_mask = np.uint64(self.mask)
        self._entries: OrderedDict[int, int] = OrderedDict()
        self._held_bytes = self._seen = self._hits = 0
        self.limit_bytes = limit_bytes

    def used_bytes(self) -> int:
        """What the list takes."""
        return len(self._entries) * _ENTRY_BYTES

    def ask(self, keys: Keys, entry_bytes: int) -> None:
        """These were looked up; what is missing is entered, as its computation would do."""
        self.asked += len(keys)
        for key in keys[(keys[:, 1] & self._word_mask) == 0, 0].tolist():
            self._look(key, entry_bytes)

    def ask_one(self, digest: bytes, entry_bytes: int) -> None:
        """The same for one key."""
        self.asked += 1
        if not int.from_bytes(digest[8:10], "little") & self.mask:
            self._look(int.from_bytes(digest[:8], "little"), entry_bytes)

    def clear(self) -> None:
        """Forget the keys, as the cache did."""
        self._entries.clear()
        self._held_bytes = 0

    @property
    def hit_rate(self) -> float:
        """0 to 1; 0 before anything was sampled."""
        expected = self.asked / self.sampled
        if not self._seen:
            return 0.0
        return min(max((self._hits + expected - self._seen) / expected, 0.0), 1.0)

    def _look(self, key: int, entry_bytes: int) -> None:
        self._seen += 1
        entries = self._entries
        if key in entries:
            self._hits += 1
            entries.move_to_end(key)
            return
        entries[key] = entry_bytes
        self._held_bytes += entry_bytes
        self._fit()

    def resize(self, limit_bytes: int) -> None:
        """The cache has another limit."""
        self.limit_bytes = limit_bytes
        self._fit()

    def _fit(self) -> None:
        entries = self._entries
        most = self.limit_bytes // PART // _ENTRY_BYTES
        while entries and (self._held_bytes > self.limit_bytes // self.sampled or len(entries) > most):
            self._held_bytes -= entries.popitem(last=False)[1]

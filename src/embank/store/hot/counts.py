"""Counting accesses with a bounded number of counters: Space-Saving (Metwally, Agrawal, El Abbadi, ICDT 2005).

A name that has no counter takes over the one that stands lowest, with its count, which is then the most that the new
name may have been overcounted by. So a count is never below the truth, and above it by at most its `error`; no error is
above accesses / counters; and whatever was accessed more often than that has a counter.

Every access costs a constant number of steps: names of the same count stand together, and a count only grows by one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_ENTRY_BYTES = 320
"""Of a counter beside its name's characters: two places in tables of names, two numbers, the string itself."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A name, and between which bounds the number of its accesses lies: `count - error` and `count`."""

    name: str
    count: int
    error: int

    @property
    def least(self) -> int:
        """Accesses that it had for sure."""
        return self.count - self.error


class SpaceSaving:
    """At most `counters` names with their counts. Not thread-safe."""

    def __init__(self, counters: int) -> None:
        self._counters = counters
        self._total = 0
        self._floor = 0
        self._counts: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        # Names of each count, in the order in which they came to it; a plain dict's first one is slow to find.
        self._alike: dict[int, OrderedDict[str, None]] = {}
        self._lowest = 0
        self._characters = 0

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def total(self) -> int:
        """Accesses counted."""
        return self._total

    @property
    def floor(self) -> int:
        """The most accesses that a name without a counter may have had."""
        return self._floor

    def used_bytes(self) -> int:
        """About what it holds."""
        return len(self._counts) * _ENTRY_BYTES + self._characters

    def add(self, name: str) -> None:
        """Count one access."""
        if not self._counters:
            return
        self._total += 1
        count = self._counts.get(name)
        if count is None:
            if len(self._counts) >= self._counters:
                self._evict()
            self._put(name, self._floor + 1, self._floor)
            return
        self._leave(name, count)
        self._counts[name] = count + 1
        self._join(name, count + 1)
        if count == self._lowest and count not in self._alike:
            self._lowest = count + 1

    def forget(self, names: Iterable[str]) -> None:
        """Drop the counters of names that are no more."""
        for name in names:
            count = self._counts.pop(name, None)
            if count is not None:
                del self._errors[name]
                self._leave(name, count)
                self._characters -= len(name)
        self._lowest = min(self._alike, default=0)

    def top(self, limit: int | None = None) -> list[Counted]:
        """The highest counts first; of equal ones the surer first, then by name."""
        found = [Counted(name, count, self._errors[name]) for name, count in self._counts.items()]
        found.sort(key=lambda each: (-each.count, each.error, each.name))
        return found[:limit]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "total": self._total,
            "floor": self._floor,
            "counters": [[each.name, each.count, each.error] for each in self.top()],
        }

    @classmethod
    def from_dict(cls, values: Any, counters: int) -> SpaceSaving:
        """What `as_dict` gave, in another number of counters if need be. Raises `ValueError` for anything else."""
        made = cls(counters)
        try:
            made._total, made._floor = int(values["total"]), int(values["floor"])
            listed = [Counted(str(name), int(count), int(error)) for name, count, error in values["counters"]]
        except (TypeError, KeyError) as error:
            raise ValueError(f"these are no counts: {error}") from error
        for each in listed[:counters]:
            made._put(each.name, each.count, each.error)
        if len(listed) > counters:  # those that find no place come behind
            made._floor = max(made._floor, listed[counters].count)
        return made

    def _evict(self) -> None:
        name = next(iter(self._alike[self._lowest]))
        self._floor = max(self._floor, self._lowest)
        del self._counts[name], self._errors[name]
        self._leave(name, self._lowest)
        self._characters -= len(name)

    def _put(self, name: str, count: int, error: int) -> None:
        self._counts[name], self._errors[name] = count, error
        self._join(name, count)
        self._characters += len(name)
        if len(self._counts) == 1 or count < self._lowest:
            self._lowest = count
        elif self._lowest not in self._alike:  # the one that was evicted stood there alone
            self._lowest = count if count == self._lowest + 1 else min(self._alike)

    def _join(self, name: str, count: int) -> None:
        alike = self._alike.get(count)
        if alike is None:
            alike = self._alike[count] = OrderedDict()
        alike[name] = None

    def _leave(self, name: str, count: int) -> None:
        alike = self._alike[count]
        del alike[name]
        if not alike:
            del self._alike[count]

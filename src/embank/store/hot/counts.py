"""Counting accesses with a bounded number of counters: Space-Saving (Metwally, Agrawal, El Abbadi, ICDT 2005).

A name that has no counter takes over the one that stands lowest, with its count, which is then the most that the new
name may have been overcounted by. So a count is never below the truth, and above it by at most its `error`; no error is
above accesses / counters; and whatever was accessed more often than that has a counter.

Every access costs a constant number of steps: all counters stand in one list in the order of their counts, and a count
only grows by one. The list is linked through arrays, so that what it takes depends on how many counters there are, and
not on what was counted. (A table of names for each count would keep, at every count, the room of the most that ever
stood there.)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_ENTRY_BYTES = 200
"""Of a counter beside its name's characters: the string, its entry in a table, its place in a list and in arrays."""

_MOST = 2**62
"""Higher than anybody counts, and one more still fits an array."""

_ENDS = 0
"""The place that stands before the first counter and behind the last one."""


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
        self._places: dict[str, int] = {}
        # What a place holds: a name, its count and error, the places before and behind it in the list. Counts ascend;
        # equal ones stand in the order in which they were reached.
        self._names = [""]
        self._counts, self._errors = array("q", [0]), array("q", [0])
        self._before, self._behind = array("q", [_ENDS]), array("q", [_ENDS])
        self._last: dict[int, int] = {}
        """Of each count the last place in the list."""
        self._free: list[int] = []
        self._characters = 0

    def __len__(self) -> int:
        return len(self._places)

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
        return len(self._places) * _ENTRY_BYTES + self._characters

    def add(self, name: str) -> None:
        """Count one access."""
        if not self._counters:
            return
        self._total += 1
        place = self._places.get(name)
        if place is None:
            if len(self._places) >= self._counters:
                lowest = self._behind[_ENDS]
                self._floor = max(self._floor, self._counts[lowest])
                self._drop(lowest)
            self._put(name, self._floor + 1, self._floor)
            return
        count = self._counts[place]
        before = self._leave(place)
        self._join(place, count + 1, behind=self._last.get(count + 1) or self._last.get(count) or before)

    def forget(self, names: Iterable[str]) -> None:
        """Drop the counters of names that are no more."""
        for name in names:
            place = self._places.get(name)
            if place is not None:
                self._drop(place)

    def top(self, limit: int | None = None) -> list[Counted]:
        """The highest counts first; of equal ones the surer first, then by name."""
        found = [Counted(name, self._counts[place], self._errors[place]) for name, place in self._places.items()]
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
        if not all(0 <= each.error <= each.count <= _MOST for each in listed):
            raise ValueError("these are no counts: some are not whole numbers from 0 on, or below their error")
        for each in listed[:counters]:
            made._put(each.name, each.count, each.error)
        if len(listed) > counters:  # those that find no place come behind
            made._floor = max(made._floor, listed[counters].count)
        return made

    def _put(self, name: str, count: int, error: int) -> None:
        """Give a name that has none a counter."""
        if self._free:
            place = self._free.pop()
            self._names[place], self._errors[place] = name, error
        else:
            place = len(self._names)
            self._names.append(name)
            self._errors.append(error)
            for each in (self._counts, self._before, self._behind):
                each.append(0)
        self._places[name] = place
        self._characters += len(name)
        self._join(place, count, behind=self._last.get(count) or self._highest_below(count))

    def _drop(self, place: int) -> None:
        """Take a counter away."""
        name = self._names[place]
        self._leave(place)
        del self._places[name]
        self._names[place] = ""
        self._free.append(place)
        self._characters -= len(name)

    def _highest_below(self, count: int) -> int:
        """The last place of those with a lower count. A newcomer's is mostly the lowest, or one above it."""
        lowest = self._behind[_ENDS]
        if lowest == _ENDS or self._counts[lowest] >= count:
            return _ENDS
        return self._last.get(count - 1) or self._last[max(each for each in self._last if each < count)]

    def _join(self, place: int, count: int, *, behind: int) -> None:
        following = self._behind[behind]
        self._before[place], self._behind[place] = behind, following
        self._behind[behind] = self._before[following] = place
        self._counts[place] = count
        self._last[count] = place

    def _leave(self, place: int) -> int:
        """Take it out of the list; the place that stood before it."""
        before, behind, count = self._before[place], self._behind[place], self._counts[place]
        self._behind[before], self._before[behind] = behind, before
        if self._last[count] == place:
            if before != _ENDS and self._counts[before] == count:
                self._last[count] = before
            else:
                del self._last[count]
        return before

"""When the growth of memory over operations is suspected to be creep: a trend, or a broken contract.

Looks at the points of a `History` in each measure. A trend must be found in two looks in a row. A rise back to what was
held before breaks no contract: what a recovery gives back is taken up again. After a suspicion the next one of its sort
comes when memory has grown as much again over the baseline, so that a leak that nobody mends is told a handful of times
over months, not every minute. Numbers only; not thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from embank.memory.creep.growth import History, Measure, Point, measured, rise

_MEASURES: tuple[Measure, ...] = ("level", "used", "managed")
_CHECK_POINTS = 8
"""The trend is looked at after every so many points."""
_IN_A_ROW = 2
_HUNDRED, _THOUSAND = 100, 1_000


@dataclass(frozen=True, slots=True)
class Contract:
    """Bytes of growth that are tolerated over a hundred and over a thousand operations."""

    per_100: int
    per_1000: int


@dataclass(frozen=True, slots=True)
class Found:
    """A suspicion. `reason`: trend, managed or contract. `points` are those it rests on."""

    reason: str
    points: tuple[Point, ...]
    bytes_per_operation: float

    @property
    def operations(self) -> int:
        """Over how many."""
        return self.points[-1].operations - self.points[0].operations

    @property
    def growth_bytes(self) -> int:
        """From the first point to the last, by the slope: single points err."""
        return round(self.bytes_per_operation * self.operations)


class Suspect:
    """See the module. `most_per_100` and `most_per_1000` are the most growth seen over so many operations."""

    def __init__(
        self, history: History, contract: Contract, *, least_points: int, least_bytes: int, confidence: float
    ) -> None:
        self._history = history
        self._contract = contract
        self._least_points = least_points
        self._least_bytes = least_bytes
        self._confidence = confidence
        self._unchecked = self._in_a_row = 0
        self._base: dict[Measure, int] = {}
        self._since = 0
        self._next_bytes = {"trend": 0, "contract": 0}
        self.most_per_100 = self.most_per_1000 = 0

    def look(self, *, managed: bool) -> Found | None:
        """Call it after every point. `managed`: whether growth in consumers' books counts, too."""
        last = self._history.at(-1)
        for measure in _MEASURES:
            value = measured(last, measure)
            if value is not None:
                self._base.setdefault(measure, value)
        found = self._broken()
        if found is not None and self._worth_it("contract", "level", last):
            return found
        self._unchecked += 1
        if self._unchecked < _CHECK_POINTS:
            return None
        self._unchecked = 0
        for measure in _MEASURES if managed else _MEASURES[:-1]:
            found = self._trend(measure)
            if found is not None:
                self._in_a_row += 1
                return found if self._in_a_row >= _IN_A_ROW and self._worth_it("trend", measure, last) else None
        self._in_a_row = 0
        return None

    def doubt(self) -> None:
        """The last trend was not borne out: the next may come when a least growth has been added."""
        self._next_bytes["trend"] = self._since + self._least_bytes

    def _worth_it(self, what: str, measure: Measure, last: Point) -> bool:
        """Whether memory has doubled since the last suspicion of this sort."""
        since = (measured(last, measure) or 0) - self._base.get(measure, 0)
        if since < self._next_bytes[what]:
            return False
        self._next_bytes[what] = 2 * max(since, self._least_bytes)
        if what == "trend":
            self._since, self._in_a_row = max(since, self._least_bytes), 0
        return True

    def _trend(self, measure: Measure) -> Found | None:
        for window in self._history.windows(self._least_points):
            values = [value for point in window if (value := measured(point, measure)) is not None]
            if len(values) < len(window):
                continue
            operations = [point.operations for point in window]
            slope = rise(operations, values, least_bytes=self._least_bytes, confidence=self._confidence)
            if slope is not None:
                reason = "managed" if measure == "managed" else "trend"
                return Found(reason, tuple(window), slope)
        return None

    def _broken(self) -> Found | None:
        """The part of the contract that growth breaks. At its end the least of two points counts, not a moment."""
        history = self._history
        hundred, two, thousand = (self._history.before(n) for n in (_HUNDRED, 2 * _HUNDRED, _THOUSAND))
        if hundred is None or len(history) < 2:
            return None
        now = history.at(-2).merged(history.at(-1))
        grown = self._grown(hundred, now)
        self.most_per_100 = max(self.most_per_100, grown)
        since = None
        # A single burst is the jump's affair; two hundreds in a row are none.
        if two is not None and min(grown, self._grown(two, hundred)) > self._contract.per_100:
            since = two
        if thousand is not None:
            over_thousand = self._grown(thousand, now)
            self.most_per_1000 = max(self.most_per_1000, over_thousand)
            if over_thousand > self._contract.per_1000:
                since = thousand
        if since is None:
            return None
        points = tuple(point for point in history.recent() if point.operations >= since.operations)
        rate = self._grown(since, now) / max(points[-1].operations - since.operations, 1)
        return Found("contract", points, rate)

    def _grown(self, before: Point, after: Point) -> int:
        """Growth that was there.

        A consumer that lets go of bytes that the process keeps, or that a child held, is none. Neither is a rise back
        to what the process had held at any of the recent points until `before`.
        """
        grown = min(after.level_bytes - before.level_bytes, after.own_bytes - before.own_bytes)
        return grown if grown <= 0 else min(grown, after.own_bytes - self._history.most_own_bytes(before.operations))

"""What the watch over creeping memory has to tell, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from embank.memory.creep.attribution import Verdict
from embank.memory.creep.growth import Point
from embank.memory.creep.shares import sharpest
from embank.memory.creep.suspect import Contract
from embank.memory.creep.trend import NotEnough, Trend, analyse


@dataclass(frozen=True, slots=True)
class KindGrowth:
    """A kind of operation: how many ended, and the growth that goes with it (None: not enough data).

    `low` and `high` bound `bytes_per_1000` (99.7 %). `together` names kinds that always go with it and share its rate.
    """

    kind: str
    operations: int
    bytes_per_100: int | None = None
    bytes_per_1000: int | None = None
    low: int | None = None
    high: int | None = None
    together: tuple[str, ...] = ()
    keeps_contract: bool | None = None


@dataclass(frozen=True, slots=True)
class CreepReport:
    """How memory stands after the operations so far.

    `growth_bytes` is old unmanaged memory over the baseline (None before the warm-up ended). `most_per_100` and
    `most_per_1000` are the most that it ever grew over so many operations, beyond what was held before;
    `keeps_contract` tells whether that was tolerable. It is by the thousand alone, for a single burst is none, and None
    before a thousand were seen.
    `untold_calls` asked to track a kind beyond those that are told apart.
    `trend` is by operations, `seconds_to_limit` by time. `unavailable` says why nothing can be told, if so.
    """

    operations: int
    readings: int
    kinds: tuple[KindGrowth, ...]
    own_bytes: int | None
    peak_bytes: int
    baseline_bytes: int | None
    growth_bytes: int | None
    most_per_100: int
    most_per_1000: int
    contract: Contract
    keeps_contract: bool | None
    trend: Trend | NotEnough
    seconds_to_limit: float | None
    suspicions: int
    jumps: int
    untold_calls: int
    attributing: bool
    verdict: Verdict | None
    unavailable: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "trend": self.trend.as_dict()}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a `Creep` has read and counted so far; the report's fields of the same names say what each is."""

    points: tuple[Point, ...]
    kinds: tuple[tuple[str, int], ...]
    baseline_bytes: int | None
    own_bytes: int | None
    peak_bytes: int
    most_per_100: int
    most_per_1000: int
    readings: int
    suspicions: int
    jumps: int
    untold_calls: int
    attributing: bool
    verdict: Verdict | None


def report(seen: Seen, contract: Contract, *, least_points: int, limit_bytes: int | None) -> CreepReport:
    """The report on what was seen: trends and shares are computed here."""
    points = seen.points
    operations = sum(count for _, count in seen.kinds)
    levels = [point.level_bytes for point in points]
    trend = analyse([point.operations for point in points], levels, least_points=least_points)
    by_time = analyse(
        [point.at_s for point in points],
        [point.own_bytes for point in points],
        least_points=least_points,
        limit=limit_bytes,
    )
    # Time is told for a rise that is there, not for the noise's.
    to_limit = by_time.time_to_limit if isinstance(by_time, Trend) and by_time.rising else None
    spans_thousand = bool(points) and points[-1].operations - points[0].operations >= 1_000
    baseline = seen.baseline_bytes
    return CreepReport(
        operations=operations,
        readings=seen.readings,
        kinds=_by_kind(contract, points, seen.kinds, enough=isinstance(trend, Trend)),
        own_bytes=seen.own_bytes,
        peak_bytes=seen.peak_bytes,
        baseline_bytes=baseline,
        growth_bytes=levels[-1] - baseline if levels and baseline is not None else None,
        most_per_100=seen.most_per_100,
        most_per_1000=seen.most_per_1000,
        contract=contract,
        keeps_contract=seen.most_per_1000 <= contract.per_1000 if spans_thousand else None,
        trend=trend,
        seconds_to_limit=to_limit,
        suspicions=seen.suspicions,
        jumps=seen.jumps,
        untold_calls=seen.untold_calls,
        attributing=seen.attributing,
        verdict=seen.verdict,
        unavailable="the memory of this process can't be read here" if operations and not seen.readings else "",
    )


def _by_kind(
    contract: Contract, points: Sequence[Point], kinds: Sequence[tuple[str, int]], *, enough: bool
) -> tuple[KindGrowth, ...]:
    told = {}
    for rate in sharpest(points) if enough else ():
        names = [kinds[each][0] for each in rate.kinds]
        for each in rate.kinds:
            name, count = kinds[each]
            per_1000 = round(rate.bytes_per_operation * 1_000)
            # Broken where it surely is: an interval that reaches below the mark does not say so.
            kept = rate.low * 1_000 <= contract.per_1000 and rate.low * 100 <= contract.per_100
            told[name] = KindGrowth(
                kind=name,
                operations=count,
                bytes_per_100=round(rate.bytes_per_operation * 100),
                bytes_per_1000=per_1000,
                low=round(rate.low * 1_000),
                high=round(rate.high * 1_000),
                together=tuple(other for other in names if other != name),
                keeps_contract=kept,
            )
    return tuple(told.get(name, KindGrowth(name, count)) for name, count in kinds)

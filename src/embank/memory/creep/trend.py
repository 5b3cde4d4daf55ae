"""Trends in a series of readings: slopes with honest intervals, and whether a rise goes on.

Readings of memory, latency or throughput hang together: a step stays, a sawtooth comes back. An interval that takes
them for independent is far too narrow, so two things are done about it. The interval of the Theil-Sen slope (Sen 1968,
from the variance of Kendall's S) is widened by the *effective sample size* that the autocorrelation of the residuals
leaves (Hamed and Rao 1998). And since no such correction is enough for a random walk, a rise must also stand the
*drift* test: the differences between successive segments of the series, as a sample of their own, must have a mean
above nought by Student's t. A leak adds about the same in every segment; a walk, a step or a plateau does not.

Pure functions over plain sequences; nothing is kept. numpy is imported by those that need it. `t` is in any unit
(seconds, operations), slopes are per that unit. A clock that went backwards costs the step in which it did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import NormalDist, fmean, median
from typing import TYPE_CHECKING, Any

from embank.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

SEGMENTS = 8
_HANG_TOGETHER = 1.5
"""By what the variance of the mean difference exceeds that of independent ones: successive averages of a random walk
differ by amounts correlated by a quarter, and 1 + 2 / 4 = 1.5."""
MOST_POINTS = 400
"""Longer series are condensed to so many medians first: pairs grow with the square."""
LEAST_POINTS = 50


@dataclass(frozen=True, slots=True)
class NotEnough:
    """There are too few readings to say anything."""

    points: int
    wanted: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"verdict": "not enough data", "points": self.points, "wanted": self.wanted}


@dataclass(frozen=True, slots=True)
class Line:
    """A least-squares line. `r2` is 0 where the values don't vary; `stderr` takes readings for independent."""

    slope: float
    intercept: float
    r2: float
    stderr: float


@dataclass(frozen=True, slots=True)
class Slope:
    """A Theil-Sen slope; infinite bounds where the readings leave them open. `effective_points` are independent."""

    slope: float
    low: float
    high: float
    intercept: float
    effective_points: float


@dataclass(frozen=True, slots=True)
class Trend:
    """What a series does. `level` is the last moving average, in the values' unit; `time_to_limit` in that of `t`.

    `verdict`: rising or falling where interval and drift test agree and the slope exceeds the threshold; else steady.
    """

    verdict: str
    points: int
    slope: Slope
    line: Line
    level: float
    drift_p: float
    """Chance of such a drift upwards in a series that has none."""
    time_to_limit: float | None

    @property
    def rising(self) -> bool:
        """Whether it is."""
        return self.verdict == "rising"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite bound is None."""
        told = asdict(self)
        told["slope"] = {key: value if math.isfinite(value) else None for key, value in asdict(self.slope).items()}
        return told


def analyse(
    t: Sequence[float],
    values: Sequence[float],
    *,
    least_points: int = LEAST_POINTS,
    window: float | None = None,
    threshold: float = 0.0,
    limit: float | None = None,
    average_points: int = 10,
    confidence: float = 0.95,
) -> Trend | NotEnough:
    """The trend of the last `window` (in the unit of `t`; None: of all). Values that are not finite are left out.

    `threshold` is the slope, upwards or downwards, that must be exceeded to count. `limit` is what the time to is told.
    """
    if len(t) != len(values):
        raise InvalidInput(f"a series needs a time for each value: there are {len(t)} times and {len(values)} values")
    pairs = [(at, value) for at, value in zip(t, values, strict=True) if math.isfinite(at) and math.isfinite(value)]
    times = forwards([at for at, _ in pairs])
    first = 0
    if window is not None and times:
        first = next(place for place, at in enumerate(times) if at >= times[-1] - window)
    x, y = times[first:], [value for _, value in pairs[first:]]
    if len(x) < max(least_points, 2 * SEGMENTS):
        return NotEnough(len(x), max(least_points, 2 * SEGMENTS))
    slope = theil_sen(x, y, confidence=confidence)
    up, down = drift(y), drift([-value for value in y])
    level = moving_average(y, average_points)[-1]
    verdict = "steady"
    if slope.low > threshold and up < 1 - confidence:
        verdict = "rising"
    elif slope.high < -threshold and down < 1 - confidence:
        verdict = "falling"
    to_limit = None if limit is None else time_to_limit(level, slope.slope, limit)
    return Trend(verdict, len(x), slope, linear(x, y), level, up, to_limit)


def forwards(t: Sequence[float]) -> list[float]:
    """The times with every step backwards taken for none, and what follows moved along."""
    out: list[float] = []
    moved = 0.0
    for place, at in enumerate(t):
        if place:
            moved += max(t[place - 1] - at, 0.0)
        out.append(at + moved)
    return out


def moving_average(values: Sequence[float], points: int) -> list[float]:
    """Means over the last `points` values up to each; over fewer at the beginning."""
    if points < 1:
        raise InvalidInput(f"a moving average is over at least one point, not {points}")
    out, total = [], 0.0
    for place, value in enumerate(values):
        total += value - (values[place - points] if place >= points else 0.0)
        out.append(total / min(place + 1, points))
    return out


def linear(t: Sequence[float], values: Sequence[float]) -> Line:
    """The least-squares line; flat where there are fewer than two times."""
    n, mean_t, mean_v = len(t), fmean(t), fmean(values)
    tt = sum((at - mean_t) ** 2 for at in t)
    vv = sum((value - mean_v) ** 2 for value in values)
    tv = sum((at - mean_t) * (value - mean_v) for at, value in zip(t, values, strict=True))
    if tt == 0:
        return Line(0.0, mean_v, 0.0, math.inf)
    slope = tv / tt
    left = max(vv - slope * tv, 0.0)
    stderr = math.sqrt(left / (n - 2) / tt) if n > 2 else math.inf
    return Line(slope, mean_v - slope * mean_t, 1 - left / vv if vv else 0.0, stderr)


def time_to_limit(level: float, slope: float, limit: float) -> float | None:
    """How long until the limit is reached at this slope: 0 where it is; None where it never will be."""
    if level >= limit:
        return 0.0
    return (limit - level) / slope if slope > 0 else None


def theil_sen(t: Sequence[float], values: Sequence[float], *, confidence: float = 0.95) -> Slope:
    """The median of the slopes between all pairs, and its interval. `t` must not fall. Under 10 ms at any length."""
    import numpy as np

    x, y = _condensed(np.asarray(t, np.float64)), _condensed(np.asarray(values, np.float64))
    n = len(x)
    left, right = np.triu_indices(n, 1)
    run = x[right] - x[left]
    slopes = np.sort((y[right] - y[left])[run > 0] / run[run > 0])
    if not len(slopes):
        return Slope(0.0, -math.inf, math.inf, float(np.median(y)) if n else 0.0, float(min(n, 1)))
    slope = float(np.median(slopes))
    residuals = y - slope * x
    intercept = float(np.median(residuals))
    inflation = _inflation(residuals)
    spread = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18 * inflation)
    low, high = math.floor((len(slopes) - spread) / 2), math.ceil((len(slopes) + spread) / 2)
    return Slope(
        slope,
        float(slopes[low]) if low >= 0 else -math.inf,
        float(slopes[high]) if high < len(slopes) else math.inf,
        intercept,
        n / inflation,
    )


def drift(
    values: Sequence[float],
    *,
    segments: int = SEGMENTS,
    of: Callable[[Sequence[float]], float] = median,
) -> float:
    """The chance of so steady a rise from segment to segment in a series without drift. At least two values a segment.

    `of` makes one number of a segment. An odd number of segments is refused, so that the chance has its closed form:
    Student's t with an even number of degrees of freedom.
    """
    if segments < 4 or segments % 2:
        raise InvalidInput(f"segments must be an even number from 4 on, not {segments}")
    return drift_p(steps(values, segments=segments, of=of))


def steps(
    values: Sequence[float], *, segments: int = SEGMENTS, of: Callable[[Sequence[float]], float] = median
) -> list[float]:
    """By how much each segment exceeds the one before it."""
    n = len(values)
    if n < 2 * segments:
        raise InvalidInput(f"{segments} segments need at least {2 * segments} values, not {n}")
    each = [of(values[place * n // segments : (place + 1) * n // segments]) for place in range(segments)]
    return [after - before for before, after in pairwise(each)]


def drift_p(differences: Sequence[float]) -> float:
    """Student's one-sided chance that their mean is above nought by accident. An odd number of them.

    Differences of neighbours hang together as those of a random walk's segments do, at worst.
    """
    n = len(differences)
    mean = fmean(differences)
    variance = sum((each - mean) ** 2 for each in differences) / (n - 1)
    if variance == 0:
        return 0.0 if mean > 0 else 1.0 - 0.5 * (mean == 0)
    freedom = n - 1
    angle = math.atan(mean / math.sqrt(_HANG_TOGETHER * variance / n) / math.sqrt(freedom))
    # Abramowitz and Stegun 26.7.4, for an even number of degrees of freedom.
    term, total = 1.0, 1.0
    for k in range(2, freedom, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return max((1 - math.sin(angle) * total) / 2, 0.0)


def _condensed(values: Floats) -> Floats:
    """At most `MOST_POINTS` medians of successive, nearly equal parts."""
    import numpy as np

    n = len(values)
    if n <= MOST_POINTS:
        return values
    return np.array([np.median(part) for part in np.array_split(values, MOST_POINTS)])


def _inflation(residuals: Floats) -> float:
    """By what factor the variance of Kendall's S exceeds that of independent readings (Hamed and Rao 1998).

    Of the autocorrelations of the ranks those up to the first that is not positive count, which is cautious: negative
    ones would narrow the interval.
    """
    import numpy as np

    n = len(residuals)
    ranks = np.argsort(np.argsort(residuals, kind="stable"), kind="stable").astype(np.float64)
    ranks -= ranks.mean()
    power = float(ranks @ ranks)
    if power == 0 or n < 4 or bool(np.ptp(residuals) == 0):
        return 1.0
    total = 0.0
    for lag in range(1, n - 2):
        correlation = float(ranks[lag:] @ ranks[:-lag]) / power
        if correlation <= 0:
            break
        total += (n - lag) * (n - lag - 1) * (n - lag - 2) * correlation
    return 1 + 2 / (n * (n - 1) * (n - 2)) * total

"""Which kind of operation growth goes with: a regression of memory on how often each kind was done.

The level of memory is regressed on the counts of all kinds at once. Readings hang together, so the errors are taken for
an autoregression of the first order, whose coefficient is estimated, and level and counts are differenced by it (Prais
and Winsten 1954, iterated): with a steady level that is nearly the plain regression, with one that wanders nearly that
of the differences. Kinds that always go together (an embedding call in every ingest window) can't be told apart by
anybody: they share one rate, and are named together.

An operation counts when it ends. Pure; numpy is imported when called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embank.memory.creep.growth import Measure, Point, measured

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_TOGETHER = 0.999
"""Counts correlated above this, once both are freed of their common trend, are of kinds that go together."""
_SHARE = 0.25
"""A kind with this part of the growth is one of its culprits."""
_HALF = 0.5
_ROUNDS = 8
_Z = 3.0
"""Readings keep to the model of the errors only roughly: 99.7 % by it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Growth that goes with one more operation of these kinds, with its interval (99.7 %)."""

    kinds: tuple[int, ...]
    operations: int
    bytes_per_operation: float
    low: float
    high: float


def sharpest(points: Sequence[Point]) -> list[Rate]:
    """The rates by unmanaged memory, or by what of it is used, where that grew as well and tells kinds apart better.

    The allocator's steps blur the former; hoarding is not in the latter.
    """
    level, used = rates(points), rates(points, "used")
    if not used or sum(map(_growth, used)) < _HALF * sum(map(_growth, level)):
        return level
    return used if sum(map(_blur, used)) < sum(map(_blur, level)) else level


def rates(points: Sequence[Point], measure: Measure = "level") -> list[Rate]:
    """The rate of every kind that was done between the first and the last point.

    None where the points are too few, or the measure could not be taken.
    """
    import numpy as np

    if len(points) < 3:
        return []
    width = len(points[-1].counts)
    # Earlier points know fewer kinds: those had not been done yet.
    counts = np.array([[*point.counts, *[0] * (width - len(point.counts))] for point in points], np.float64)
    values = [value for point in points if (value := measured(point, measure)) is not None]
    if len(values) < len(points):
        return []
    level = np.array(values, np.float64)
    done = [kind for kind in range(width) if counts[-1, kind] > counts[0, kind]]
    groups = _together(counts, done)
    if not groups or len(points) < 4 * len(groups):
        return []
    design = np.stack([counts[:, group].sum(axis=1) for group in groups], axis=1)
    design -= design[0]
    beta, stderr = _fit(np.column_stack([np.ones(len(points)), design]), level - level[0])
    return [
        Rate(
            tuple(group),
            int(design[-1, place]),
            float(beta[place + 1]),
            float(beta[place + 1] - _Z * stderr[place + 1]),
            float(beta[place + 1] + _Z * stderr[place + 1]),
        )
        for place, group in enumerate(groups)
    ]


def culprits(found: Sequence[Rate]) -> tuple[int, ...]:
    """The kinds that growth goes with, the most first: those that surely have a part in it; else all that may have."""
    growth = sum(max(_growth(rate), 0.0) for rate in found)
    ordered = sorted(found, key=_growth, reverse=True)
    sure = [rate for rate in ordered if rate.low > 0 and _growth(rate) >= _SHARE * growth]
    named = sure or [rate for rate in ordered if rate.high * rate.operations >= _HALF * growth] or ordered
    return tuple(kind for rate in named for kind in rate.kinds)


def _growth(rate: Rate) -> float:
    return rate.bytes_per_operation * rate.operations


def _blur(rate: Rate) -> float:
    return (rate.high - rate.low) * rate.operations


def _together(counts: Floats, done: Sequence[int]) -> list[list[int]]:
    """The kinds in groups that can be told apart."""
    import numpy as np

    steps = np.diff(counts, axis=0)
    groups: list[list[int]] = []
    for kind in done:
        own = counts[:, kind] / counts[-1, kind]
        for group in groups:
            other = counts[:, group[0]] / counts[-1, group[0]]
            # In step from point to point, or by what their courses differ in: less than a thousandth.
            a, b = steps[:, kind] - steps[:, kind].mean(), steps[:, group[0]] - steps[:, group[0]].mean()
            size = float(np.sqrt((a @ a) * (b @ b)))
            in_step = float(a @ b) > _TOGETHER * size if size else True
            if in_step and float(np.abs(own - other).max()) < 1 - _TOGETHER + 1 / len(counts):
                group.append(kind)
                break
        else:
            groups.append([kind])
    return groups


def _fit(design: Floats, level: Floats) -> tuple[Floats, Floats]:
    """Coefficients and their standard errors, with autoregressive errors."""
    import numpy as np

    rho, x, y = 0.0, design, level
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    for _ in range(_ROUNDS):
        errors = level - design @ beta
        power = float(errors[:-1] @ errors[:-1])
        new = min(max(float(errors[1:] @ errors[:-1]) / power, 0.0), 0.999) if power else 0.0
        if abs(new - rho) < 1e-4:
            break
        rho = new
        first = np.sqrt(1 - rho**2)
        x = np.concatenate([design[:1] * first, design[1:] - rho * design[:-1]])
        y = np.concatenate([level[:1] * first, level[1:] - rho * level[:-1]])
        beta = np.linalg.lstsq(x, y, rcond=None)[0]
    left = y - x @ beta
    freedom = max(len(level) - design.shape[1], 1)
    covariance = np.linalg.pinv(x.T @ x) * float(left @ left) / freedom
    return np.asarray(beta), np.sqrt(np.maximum(np.diag(covariance), 0.0))

"""How long to wait until memory is looked at again: short where something may happen, long where nothing does.

The nearer pressure is to the mark of the next rung, the sooner; and if it rises, so soon that it will have come half
of the way at most. Far from any mark and at rest, longer each time. Pressure that stands still just above a rung's mark
is no reason for haste: what could be done was done there.
"""

from __future__ import annotations

_NEAR = 0.10
"""From so far below a mark on, looks become more frequent."""

_CALM = 0.25
"""At least so far below a mark, and at rest, they become rarer."""

_REST = 0.01
"""Pressure that moved by no more than this from one look to the next is at rest."""

_SLOWER = 1.5
"""By how much, each time."""


class Pace:
    """See the module. Not thread-safe. `base_s` is the pause unless something is said for another."""

    def __init__(self, base_s: float, *, fastest_s: float, slowest_s: float, adaptive: bool) -> None:
        self._base_s = base_s
        self._fastest_s = fastest_s
        self._slowest_s = slowest_s
        self._adaptive = adaptive
        self._last: float | None = None
        self._last_s = base_s

    def next_s(self, pressure: float, *, mark: float | None) -> float:
        """Seconds until the next look. `mark`: the pressure at which the next rung is entered; None above all."""
        last, self._last = self._last, pressure
        if not self._adaptive:
            return self._base_s
        rise = 0.0 if last is None else pressure - last
        gap = _CALM / 2 if mark is None else max(mark - pressure, 0.0)
        wait_s = self._base_s
        if gap < _NEAR:
            wait_s = self._fastest_s + (self._base_s - self._fastest_s) * gap / _NEAR
        elif gap >= _CALM and abs(rise) <= _REST and last is not None:
            wait_s = max(self._last_s, self._base_s) * _SLOWER
        if rise > _REST:
            wait_s = min(wait_s, gap / 2 / (rise / self._last_s))
        self._last_s = min(max(wait_s, self._fastest_s), self._slowest_s)
        return self._last_s

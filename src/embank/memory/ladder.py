"""The ladder: which rung the pressure has reached, and which actions may be taken there. A pure state machine.

Covers climbing, coming down, cool-downs, and not repeating what did not help. Does not measure, act, log or lock: the
governor tells it pressures and what its actions changed; who shares it between threads guards it with a lock.

The active rungs are always the lowest ones up to some height. Each rung has its own way down (hysteresis). The ladder
climbs one rung at a step, and beyond the first only while pressure is not falling, so that what lower rungs did can
show its effect. An action is not repeated within the cool-down; one that freed nothing is not repeated until pressure
has risen above where it left it, or the rung was left and entered again. One that is for a rung that stays waits until
the rung has stood for so long.

Pressure is the used part of the room between floor and budget: 0 at the floor, 1 at the budget, more above it. A clock
that is set back ends cool-downs early; it never makes them longer.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from embank.errors import InvalidInput
from embank.system.clock import Clock

_TOLERANCE = 0.005
"""Pressure that differs by less is the same pressure: 0.5 % of the room is the noise of an idle process."""


Hindrance = Literal["rung left", "cool-down", "fruitless", "waiting"]
"""Why an action is not taken: its rung is not active, it was taken a moment ago, it freed nothing the last time and
pressure has not risen since, or it is for a rung that stays and the rung has not stood for long enough."""


@dataclass(frozen=True, slots=True)
class Rung:
    """Entered at pressure `enter` or more, left below `leave`.

    While it is active and `shrinks`, bulk work gets less and waits; while it `refuses`, no new work begins.
    """

    name: str
    enter: float
    leave: float
    shrinks: bool = False
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What changed: rungs left (highest first), and the rung entered, if any.

    `falling` is the rung that was not entered, though pressure is above its mark, since pressure is falling.
    """

    left: tuple[Rung, ...] = ()
    entered: Rung | None = None
    falling: Rung | None = None


class Ladder:
    """See the module. Not thread-safe."""

    def __init__(self, rungs: Sequence[Rung], *, cooldown_s: float, clock: Clock) -> None:
        names = [rung.name for rung in rungs]
        if not names or len(set(names)) < len(names):
            raise InvalidInput(f"a ladder needs rungs of different names, not {names}", rungs=names)
        self.rungs = tuple(rungs)
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._height = 0
        self._last_pressure: float | None = None
        self._entered_at_s: dict[str, float] = {}
        self._acted_at_s: dict[tuple[str, Hashable], float] = {}
        self._futile_at: dict[tuple[str, Hashable], float] = {}
        """Pressure at which an action (rung, whatever stands for it) was found to free nothing."""

    @property
    def active(self) -> tuple[Rung, ...]:
        """The active rungs, lowest first."""
        return self.rungs[: self._height]

    @property
    def rung(self) -> Rung | None:
        """The highest active rung."""
        return self.rungs[self._height - 1] if self._height else None

    @property
    def shrinking(self) -> bool:
        """Whether bulk work is to get less, and to wait."""
        return any(rung.shrinks for rung in self.active)

    @property
    def refusing(self) -> bool:
        """Whether new work is to be refused."""
        return any(rung.refuses for rung in self.active)

    def step(self, pressure: float) -> Step:
        """Take the pressure as it is now: come down as far as it allows, or else climb at most one rung."""
        left = self.ease(pressure).left
        last, self._last_pressure = self._last_pressure, pressure
        if left or self._height == len(self.rungs):
            return Step(left=left)
        candidate = self.rungs[self._height]
        falling = last is not None and pressure < last - _TOLERANCE
        if pressure < candidate.enter:
            return Step()
        if falling and self._height > 0:
            return Step(falling=candidate)
        self._height += 1
        self._entered_at_s[candidate.name] = self._clock.monotonic()
        return Step(entered=candidate)

    def ease(self, pressure: float) -> Step:
        """Come down as far as the pressure allows; never climb. May be called between steps, at any rate."""
        left: list[Rung] = []
        while self._height and pressure < self.rungs[self._height - 1].leave:
            self._height -= 1
            rung = self.rungs[self._height]
            left.append(rung)
            for key in [key for key in self._futile_at if key[0] == rung.name]:
                del self._futile_at[key]
        return Step(left=tuple(left))

    def hindrance(self, rung: Rung, action: Hashable, pressure: float, *, after_s: float = 0.0) -> Hindrance | None:
        """Why this action of this rung is not to be taken now; None where it is worth it.

        `after_s`: only once the rung has stood for so long.
        """
        key = (rung.name, action)
        if rung not in self.active:
            return "rung left"
        if self._within(after_s, since_s=self._entered_at_s[rung.name]):
            return "waiting"
        acted_at_s = self._acted_at_s.get(key)
        if acted_at_s is not None and self._within(self._cooldown_s, since_s=acted_at_s):
            return "cool-down"
        futile_at = self._futile_at.get(key)
        return None if futile_at is None or pressure > futile_at + _TOLERANCE else "fruitless"

    def began(self, rung: Rung, action: Hashable) -> None:
        """Note that an action was begun whose effect is not known yet, since it goes on by itself."""
        self._acted_at_s[rung.name, action] = self._clock.monotonic()

    def acted(self, rung: Rung, action: Hashable, *, before: float, after: float) -> bool:
        """Note that an action was taken and what pressure was around it. Returns whether it helped."""
        key = (rung.name, action)
        self._acted_at_s[key] = self._clock.monotonic()
        helped = before - after >= _TOLERANCE
        if helped:
            self._futile_at.pop(key, None)
        elif rung in self.active:
            self._futile_at[key] = after
        return helped

    def _within(self, seconds: float, *, since_s: float) -> bool:
        # Below 0 the clock was set back: nobody knows how long it has been, and waiting for it to catch up may be long.
        return 0 <= self._clock.monotonic() - since_s < seconds

    def forget(self, action: Hashable) -> None:
        """Drop what is known of an action that no longer exists, so that the tables stay bounded."""
        for table in (self._acted_at_s, self._futile_at):
            for key in [key for key in table if key[1] == action]:
                del table[key]

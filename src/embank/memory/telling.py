"""Telling: what the governor does, and why it does nothing, as events and in the log.

What is done is told each time. What is not done is told once in an episode, which ends when the rung is left: a ladder
that looks ten times a second must not say ten times a second that it waits.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from embank.errors import BudgetExceeded
from embank.events.kinds import (
    ActionSkipped,
    ActionTaken,
    BudgetCapped,
    BudgetChanged,
    BudgetTooSmall,
    BulkWorkPaused,
    Event,
    MemoryReleased,
    PressureReported,
    ReservationRefused,
    RungEntered,
    RungLeft,
)
from embank.memory.ladder import Rung, Step
from embank.memory.scales import Weighed, told
from embank.memory.snapshot import Gauge, TakenAction
from embank.system.clock import Clock
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.events.stream import Stream

_log = get_logger("embank.memory.governor")

_KEPT_ACTIONS = 32


class Teller:
    """See the module. Thread-safe; without a stream only the log hears. Keeps the latest actions, 32 of them."""

    def __init__(self, stream: Stream | None, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._actions: deque[TakenAction] = deque(maxlen=_KEPT_ACTIONS)
        self._lock = threading.Lock()
        self._said: set[tuple[str, str, str]] = set()
        """Rung, action and reason of what was told in this episode; as many as there are actions, at most."""

    @property
    def last_actions(self) -> tuple[TakenAction, ...]:
        """The latest actions, oldest first."""
        with self._lock:
            return tuple(self._actions)

    def moved(self, step: Step, gauge: Gauge) -> None:
        """Rungs were left, or one entered, or one not entered since pressure falls."""
        facts = (gauge.pressure, gauge.real_bytes, gauge.budget_bytes)
        for rung in step.left:
            _log.info("left memory rung %s at pressure %.2f", rung.name, gauge.pressure)
            self._publish(RungLeft(rung.name, *facts, at=self._clock.now()))
            with self._lock:
                self._said = {each for each in self._said if each[0] != rung.name}
        if step.falling is not None:
            self.skipped(step.falling, "", "falling", gauge)
        elif step.entered is not None:
            with self._lock:
                self._said.discard((step.entered.name, "", "falling"))
            _log.warning("entered memory rung %s at pressure %.2f", step.entered.name, gauge.pressure)
            self._publish(RungEntered(step.entered.name, *facts, at=self._clock.now()))

    def acted(self, rung: Rung, action: str, gauge: Gauge, *, freed_bytes: int, seconds: float, done: bool) -> None:
        """The ladder took an action; `gauge` is from before it."""
        ended = "freed" if done else "has not ended, and so far freed"
        _log.info("at rung %s: %s %s %d bytes in %.3f s", rung.name, action, ended, freed_bytes, seconds)
        why = f"pressure {gauge.pressure:.2f}, {rung.name} from {rung.enter:g}"
        self.noted(rung.name, action, why, freed_bytes, seconds, done=done)
        self._publish(
            ActionTaken(rung.name, action, freed_bytes, seconds, gauge.pressure, done, at=self._clock.now()),
        )

    def noted(self, rung: str, action: str, why: str, freed_bytes: int, seconds: float, *, done: bool) -> None:
        """Keep an action among the latest."""
        with self._lock:
            self._actions.append(TakenAction(self._clock.now(), rung, action, why, freed_bytes, seconds, done))

    def skipped(self, rung: Rung, action: str, reason: str, gauge: Gauge) -> None:
        """The ladder did not take an action; told once in an episode."""
        key = (rung.name, action, reason)
        with self._lock:
            if key in self._said:
                return
            self._said.add(key)
        _log.info("at rung %s, pressure %.2f: %s not taken: %s", rung.name, gauge.pressure, action or "it is", reason)
        self._publish(ActionSkipped(rung.name, action, reason, gauge.pressure, at=self._clock.now()))

    def released(self, consumer: str, wanted_bytes: int, freed_bytes: int, why: str) -> None:
        """A consumer gave something, or said so."""
        self._publish(MemoryReleased(consumer, wanted_bytes, freed_bytes, why, at=self._clock.now()))

    def refused(self, error: BudgetExceeded) -> None:
        """A reservation was refused; the error is raised, too, and tells the user."""
        _log.info("refused: %s", error)
        what, wanted, available = (error.fields[key] for key in ("what", "wanted_bytes", "available_bytes"))
        self._publish(ReservationRefused(what, wanted, available, at=self._clock.now()))

    def paused(self, what: str, rung: Rung | None) -> None:
        """Bulk work waits; told once in an episode."""
        if rung is None:
            return  # it was left that very moment
        key = (rung.name, what, "paused")
        with self._lock:
            if key in self._said or len(self._said) > 1000:
                return
            self._said.add(key)
        _log.info("at rung %s: %s waits", rung.name, what)
        self._publish(BulkWorkPaused(what, rung.name, at=self._clock.now()))

    def reported(self, source: str, before_bytes: int, freed_bytes: int, seconds: float) -> None:
        """The kernel said that memory is short."""
        _log.warning("memory pressure was reported (%s): %d bytes freed in %.3f s", source, freed_bytes, seconds)
        self.noted("", "release for the kernel", f"pressure reported by {source}", freed_bytes, seconds, done=True)
        self._publish(PressureReported(source, before_bytes, freed_bytes, seconds, at=self._clock.now()))

    def budget(self, before_bytes: int, weighed: Weighed) -> None:
        """There is a budget: the first (`before_bytes` is 0), or another one."""
        if weighed.capped:
            _log.warning(
                "a memory budget of %s is more than the control group may hold: it is %s",
                told(weighed.asked_bytes),
                told(weighed.budget_bytes),
            )
            self._publish(BudgetCapped(weighed.asked_bytes, weighed.budget_bytes, at=self._clock.now()))
        if before_bytes and before_bytes != weighed.budget_bytes:
            _log.info("the memory budget is %s, and was %s", told(weighed.budget_bytes), told(before_bytes))
            self._publish(BudgetChanged(before_bytes, weighed.budget_bytes, at=self._clock.now()))

    def too_small(self, budget_bytes: int, floor_bytes: int, least_bytes: int) -> None:
        """The floor turned out to be above the budget."""
        _log.error(
            "the memory budget of %s can't work: %s are held that nobody can release; set memory.budget to %s or more",
            *map(told, (budget_bytes, floor_bytes, least_bytes)),
        )
        self._publish(BudgetTooSmall(budget_bytes, floor_bytes, least_bytes, at=self._clock.now()))

    def renew(self) -> None:
        """In the child after a fork: a lock may be another thread's that is not there."""
        self._lock = threading.Lock()

    def _publish(self, event: Event) -> None:
        if self._stream is not None:
            self._stream.publish(event)

"""Who holds bytes, and asking them for some back without being hurt by the answer.

Covers registering consumers and actions for a rung, and calling them so that one that raises, blocks or tells untruths
is logged and counted, and stops nobody else. Does not decide whom to ask, nor measure what came of it.

No lock is held while foreign code runs. A consumer is asked by one thread at a time: another that wants it waits for as
long as a slow release may take, and then goes on without it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from embank.memory.consumer import Consumer
from embank.system.clock import Clock
from embank.system.log import get_logger

_log = get_logger(__name__)

SLICE_S = 0.05
"""Waits are cut into pieces of this length of real time, so that an injected clock and memory that falls by itself are
noticed."""

_WORTH_SAYING_BYTES = 1 << 20


class Registration:
    """A place on the roster; ends with `close` or the `with` block. Closing again does nothing."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def close(self) -> None:
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(slots=True, eq=False)
class Entry:
    """A registered consumer."""

    consumer: Consumer
    name: str
    rung: str
    asked_by: int | None = None
    """The thread whose `release` call is under way."""


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """A registered act; it answers the bytes that it believes to have freed."""

    rung: str
    name: str
    act: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a consumer said, and by how much its own books fell meanwhile."""

    claimed_bytes: int = 0
    booked_bytes: int = 0


@dataclass(slots=True)
class Counters:
    """How often foreign code misbehaved."""

    failed: int = 0
    slow: int = 0
    false: int = 0


@dataclass(slots=True)
class Roster:
    """See the module. Thread-safe."""

    clock: Clock
    slow_s: float
    counters: Counters = field(default_factory=Counters)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _entries: tuple[Entry, ...] = ()
    _actions: tuple[Action, ...] = ()

    def add(self, doer: Entry | Action) -> None:
        """Take a consumer or an action in. Two may have the same name."""
        with self._changed:
            if isinstance(doer, Entry):
                self._entries = (*self._entries, doer)
            else:
                self._actions = (*self._actions, doer)

    def remove(self, doer: Entry | Action) -> None:
        """Take it out again; nothing happens where it is not there."""
        with self._changed:
            self._entries = tuple(entry for entry in self._entries if entry is not doer)
            self._actions = tuple(action for action in self._actions if action is not doer)

    def actions(self, rung: str) -> tuple[Action, ...]:
        """The rung's actions, in the order in which they were registered."""
        return tuple(action for action in self._actions if action.rung == rung)

    def held(self) -> tuple[tuple[str, int], ...]:
        """Name and bytes of every consumer."""
        return tuple((entry.name, self.used(entry)) for entry in self._entries)

    def cheapest_first(self, rungs: set[str]) -> list[Entry]:
        """Consumers of these rungs that hold anything, those that a megabyte costs least to earn back first.

        One that can't tell its cost comes last.
        """
        costed = [(self._cost(entry), entry) for entry in self._entries if entry.rung in rungs and self.used(entry) > 0]
        return [entry for _, entry in sorted(costed, key=lambda pair: pair[0])]

    def used(self, entry: Entry) -> int:
        """What the consumer says it holds; nothing where it raises."""
        try:
            return max(int(entry.consumer.used_bytes()), 0)
        except Exception:  # noqa: BLE001 — foreign code may raise anything
            self._failed(entry.name, "used_bytes")
            return 0

    def ask(self, entry: Entry, wanted_bytes: int) -> Answer:
        """Have the consumer release bytes. Never raises; an empty answer where it fails or another thread is at it."""
        if not self._take(entry):
            return Answer()
        began_s = self.clock.monotonic()
        before_bytes = self.used(entry)
        claimed_bytes = 0
        try:
            claimed_bytes = max(int(entry.consumer.release(wanted_bytes)), 0)
        except Exception:  # noqa: BLE001 — foreign code may raise anything
            self._failed(entry.name, "release")
        finally:
            with self._changed:
                entry.asked_by = None
                self._changed.notify_all()
        self._time(entry.name, self.clock.monotonic() - began_s)
        return Answer(claimed_bytes, max(before_bytes - self.used(entry), 0))

    def act(self, action: Action) -> None:
        """Take an action. Never raises; its answer is not needed, since the effect is measured."""
        began_s = self.clock.monotonic()
        try:
            action.act()
        except Exception:  # noqa: BLE001 — foreign code may raise anything
            self._failed(action.name, "action")
        self._time(action.name, self.clock.monotonic() - began_s)

    def judge(self, entry: Entry, answer: Answer, *, measured_bytes: int) -> None:
        """Count a claim of a megabyte or more that neither the kernel nor the consumer's own books bear out by half.

        A hint, no verdict: a consumer that other threads fill again at that moment looks the same.
        """
        claimed_bytes = answer.claimed_bytes
        if claimed_bytes >= _WORTH_SAYING_BYTES and 2 * max(measured_bytes, answer.booked_bytes) < claimed_bytes:
            with self._changed:
                self.counters.false += 1
            _log.info(
                "memory consumer %s says it freed %d bytes, but %d were", entry.name, claimed_bytes, measured_bytes
            )

    def _take(self, entry: Entry) -> bool:
        """Become the one thread that asks this consumer; False where that takes too long, or is this very thread."""
        me = threading.get_ident()
        with self._changed:
            deadline_s = self.clock.monotonic() + self.slow_s
            while entry.asked_by is not None:
                if entry.asked_by == me or self.clock.monotonic() >= deadline_s:
                    return False
                self._changed.wait(SLICE_S)
            entry.asked_by = me
            return True

    def _cost(self, entry: Entry) -> float:
        try:
            cost = float(entry.consumer.rebuild_cost())
        except Exception:  # noqa: BLE001 — foreign code may raise anything
            self._failed(entry.name, "rebuild_cost")
            return math.inf
        return math.inf if math.isnan(cost) else cost

    def _time(self, name: str, seconds: float) -> None:
        if seconds > self.slow_s:
            with self._changed:
                self.counters.slow += 1
            _log.warning("memory consumer %s took %.1f s to release", name, seconds)

    def _failed(self, name: str, what: str) -> None:
        with self._changed:
            self.counters.failed += 1
        # Called while an exception is handled: the log has its trace.
        _log.exception("memory consumer %s failed in %s", name, what)

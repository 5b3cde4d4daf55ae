"""Who holds bytes, and asking them for some back without being hurt by the answer.

Covers registering consumers and actions for a rung, and calling them so that one that raises, blocks or tells untruths
is logged and counted, and stops nobody else. Does not decide whom to ask, nor measure what came of it.

No lock is held while foreign code runs, and what may block runs in a thread of its own, which is waited for as long as
a slow release may take: one that takes longer goes on by itself, and nobody asks it again before it has ended. A
consumer is asked by one thread at a time: another that wants it waits for as long, and then goes on without it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from embank.memory.consumer import Consumer
from embank.system.clock import Clock, Stopwatch
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
    in_child: bool = False
    busy: Busy | None = None
    """The call of `release` that is under way."""


@dataclass(slots=True, eq=False)
class Action:
    """A registered act; it answers the bytes that it believes to have freed.

    `after_s`: only once its rung has stood for so long.
    """

    rung: str
    name: str
    act: Callable[[], int]
    after_s: float = 0.0
    busy: Busy | None = None


@dataclass(slots=True)
class Busy:
    """A call under way: since when, and in which thread, once that runs."""

    stopwatch: Stopwatch
    thread: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a consumer or an action said, and by how much a consumer's own books fell meanwhile.

    Unless it is `done`, it has not ended in time, and its effect is to be seen later. `asked` is false where it was
    not called, since an earlier call of it is still under way.
    """

    claimed_bytes: int = 0
    booked_bytes: int = 0
    done: bool = True
    asked: bool = True


_BUSY = Answer(done=False, asked=False)


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

    def consumers_here(self) -> tuple[Consumer, ...]:
        """Consumers that hold something in this process."""
        return tuple(entry.consumer for entry in self._entries if not entry.in_child)

    def managed_here_bytes(self) -> int:
        """The sum over these."""
        return sum(self.used(entry) for entry in self._entries if not entry.in_child)

    def held(self) -> tuple[tuple[str, int], ...]:
        """Name and bytes of every consumer."""
        return tuple((entry.name, self.used(entry)) for entry in self._entries)

    def managed_bytes(self) -> int:
        """The sum over all consumers."""
        return sum(count for _, count in self.held())

    def cheapest_first(self, rungs: Sequence[str]) -> list[Entry]:
        """Consumers of these rungs that hold anything, in the order of the rungs.

        Within each, those come first that a megabyte costs least to earn back. One that can't tell its cost comes last.
        """
        costed = [
            (rungs.index(entry.rung), self._cost(entry), entry)
            for entry in self._entries
            if entry.rung in rungs and self.used(entry) > 0
        ]
        return [entry for _, _, entry in sorted(costed, key=lambda each: each[:2])]

    def used(self, entry: Entry) -> int:
        """What the consumer says it holds; nothing where it raises."""
        try:
            return max(int(entry.consumer.used_bytes()), 0)
        except Exception:  # noqa: BLE001 — foreign code may raise anything
            self._failed(entry.name, "used_bytes")
            return 0

    def ask(self, entry: Entry, wanted_bytes: int) -> Answer:
        """Have the consumer release bytes. Never raises; an empty answer where it fails or another thread is at it."""
        busy = self._take(entry)
        if busy is None:
            return _BUSY
        before_bytes = self.used(entry)
        claimed_bytes, done = self._call(entry, busy, lambda: entry.consumer.release(wanted_bytes), "release")
        return Answer(claimed_bytes, max(before_bytes - self.used(entry), 0), done=done)

    def act(self, action: Action) -> Answer:
        """Take an action. Never raises; what it claims is not needed, since the effect is measured."""
        busy = self._take(action)
        if busy is None:
            return _BUSY
        claimed_bytes, done = self._call(action, busy, action.act, "action")
        return Answer(claimed_bytes, done=done)

    def renew(self) -> None:
        """Start over in the child after a fork: threads that asked somebody are in another process now."""
        self._changed = threading.Condition()
        doers: list[Entry | Action] = [*self._entries, *self._actions]
        for doer in doers:
            doer.busy = None

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

    def _call(self, doer: Entry | Action, busy: Busy, call: Callable[[], int], what: str) -> tuple[int, bool]:
        """What `call` answers, and whether it ended in time."""
        claimed: list[int] = []

        def run() -> None:
            busy.thread = threading.get_ident()
            try:
                claimed.append(max(int(call()), 0))
            except Exception:  # noqa: BLE001 — foreign code may raise anything
                self._failed(doer.name, what)
            finally:
                with self._changed:
                    seconds = busy.stopwatch.passed_s()
                    if doer.busy is busy:
                        doer.busy = None
                    self._changed.notify_all()
                self._time(doer.name, seconds)

        try:
            threading.Thread(target=run, name="embank-release", daemon=True).start()
        except RuntimeError:  # no thread can be had: then it is not known how long this takes
            run()
        with self._changed:
            while doer.busy is busy and busy.stopwatch.passed_s() < self.slow_s:
                self._changed.wait(min(self.slow_s, SLICE_S))
            done = doer.busy is not busy
        if not done:
            _log.warning("memory consumer %s is still at it after %.1f s: going on without it", doer.name, self.slow_s)
        return (claimed[0] if claimed else 0), done

    def _take(self, doer: Entry | Action) -> Busy | None:
        """Become the one thread that asks; None where that takes too long, or is this very thread."""
        me = threading.get_ident()
        with self._changed:
            waited = Stopwatch(self.clock)
            while doer.busy is not None:
                # Who hangs is not waited for again, by each who comes.
                if doer.busy.thread == me or doer.busy.stopwatch.passed_s() >= self.slow_s:
                    return None
                if waited.passed_s() >= self.slow_s:
                    return None
                self._changed.wait(min(self.slow_s, SLICE_S))
            doer.busy = Busy(Stopwatch(self.clock), me)
            return doer.busy

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

"""Memory that creeps up with the operations: seen by kind, told, and traced to its culprit.

    creep = Creep(managed_bytes=governor.managed_bytes, recover=lambda: governor.relieve(10**9))
    with creep.track("ingest"): ...          # or @creep.track("ingest"), on functions and async functions

At the end of every n-th operation the process's anonymous memory is read. What counts is *old unmanaged* memory: less
what consumers say they hold, and the least of two readings. What the first operations of a kind take (lazy imports,
models, arenas, buffers) is its warm-up and is not counted, whenever the kind begins, but not for long: a kind that is
rare has warmed up once ten times as many operations of all kinds have ended. What others take while such an operation
is under way is lost with it, which is bounded by the number of kinds. The baseline is the level after the first
warm-up, and nothing ever moves it: a recovery that did would hide creep.

Two alarms. A rise of more than 5 MB within 10 operations is a *jump*: the recovery handed in is called at once, in the
thread whose operation ended. Growth that goes on (`growth.py`), or that breaks the contract (1 MB in each of two
successive hundreds of operations, 5 MB in a thousand), is *suspected creep*, and an experiment seeks its culprit
(`attribution.py`). After an alarm the next one comes when memory has grown as much again.

Operations of several kinds may interleave, nest and run side by side; nested ones count each for itself. Does not see
other processes. Where memory can't be read nothing is judged, and the report says so.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

from embank.events.kinds import CreepSuspected, Event, LeakAttributed, MemoryJumped
from embank.memory.consumer import Consumer
from embank.memory.creep.attribution import Attribution, Suspicion, Verdict, held
from embank.memory.creep.growth import History
from embank.memory.creep.jumps import Jumps
from embank.memory.creep.operation import Operation
from embank.memory.creep.readings import Readings, heap_free
from embank.memory.creep.report import CreepReport, Seen, report
from embank.memory.creep.shares import culprits, rates, sharpest
from embank.memory.creep.suspect import Contract, Found, Suspect
from embank.memory.creep.tracing import Tracing
from embank.memory.meter import machine_limit
from embank.memory.recovery import own_bytes
from embank.memory.trim import trim
from embank.system.clock import Clock, SystemClock
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.memory.creep.settings import Settings

_log = get_logger(__name__)

_WARM_UP_SPAN = 10
"""Times the operations of a warm-up: so long a rare kind is given, in operations of all kinds."""

OTHER = "other"
"""Kinds beyond those that are told apart."""


class Creep:
    """See the module. Thread-safe; a forked child starts anew. `close` ends what may be under way.

    `managed_bytes` answers what consumers hold in this process (default: what `consumers` say); `consumers` are those
    that the attribution may ask and whose own growth is watched, unless below their `limit_bytes`, if they have one.
    `recover` is called on a jump. `limit_bytes` is what the time to is told. `read` and `free` answer this process's
    anonymous memory and the allocator's free bytes.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        managed_bytes: Callable[[], int] | None = None,
        consumers: Callable[[], Iterable[Consumer]] = tuple,
        recover: Callable[[], object] = lambda: None,
        publish: Callable[[Event], object] = lambda _: None,
        limit_bytes: Callable[[], int | None] = lambda: None,
        clock: Clock | None = None,
        read: Callable[[], int | None] = own_bytes,
        free: Callable[[], int | None] = heap_free,
        attribution: Attribution | None = None,
    ) -> None:
        if settings is None:
            from embank.memory.creep.settings import Settings  # pydantic, which its importer may never need

            settings = Settings()
        self._settings = settings
        self._consumers = consumers
        self._managed_bytes = managed_bytes or (lambda: sum(held(consumers()).values()))
        self._recover = recover
        self._publish = publish
        self._limit_bytes = limit_bytes
        self._clock = clock or SystemClock()
        self._read = read
        self._free = free
        whole = machine_limit()
        self._least_growth = settings.least_growth.resolve(whole)
        self._contract = Contract(settings.most_per_100.resolve(whole), settings.most_per_1000.resolve(whole))
        self._attribution = attribution or self._own_attribution(whole)
        self._jump_bytes = settings.jump.resolve(whole)
        self._start()
        _ALIVE.add(self)

    def track(self, kind: str) -> Operation:
        """What marks one operation, as a context manager, or every call of a function, as a decorator.

        Costs a microsecond where memory is not read, some hundred where it is. An operation that raises counts.
        """
        known = self._known.get(kind)
        if known is not None:
            return known
        with self._lock:
            if kind not in self._known and len(self._kinds) >= self._settings.most_kinds:
                self._untold += 1
                kind = OTHER
            if kind not in self._known:
                enabled = self._settings.enabled
                warms = self._begun if enabled and self._settings.warmup_operations else None
                self._known[kind] = Operation(kind, self._ended if enabled else _ignored, begun=warms)
                self._enter(kind)
            return self._known[kind]

    def report(self) -> CreepReport:
        """How things stand, from what was read so far. Milliseconds: trends and shares are computed here."""
        limit_bytes = self._limit_bytes()
        with self._lock:
            seen = Seen(
                points=tuple(self._history.recent()),
                kinds=tuple(zip(self._kinds, self._counts, strict=True)),
                baseline_bytes=self._baseline,
                own_bytes=self._readings.last_bytes,
                peak_bytes=self._readings.peak_bytes,
                most_per_100=self._suspect.most_per_100,
                most_per_1000=self._suspect.most_per_1000,
                readings=self._readings.taken,
                suspicions=self._suspicions,
                jumps=self._jumps,
                untold_calls=self._untold,
                attributing=self._attribution.active,
                verdict=self._verdict,
            )
        with self._looking, self._readings.unseen():
            return report(seen, self._contract, least_points=self._settings.least_points, limit_bytes=limit_bytes)

    def close(self) -> None:
        """Give up what is under way; operations go on uncounted. May be repeated."""
        self._closed = True
        with self._looking:
            self._attribution.close()

    # --- operations -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        settings = self._settings
        self._lock = threading.Lock()
        """Guards the counts and what a report is made of; nothing foreign is called while it is held."""
        self._looking = threading.RLock()
        """Held by the one thread that reads and acts; operations that end meanwhile don't wait for it. That thread
        itself may come back: a recovery may hold operations, a subscriber ask for the report."""
        self._acting = False
        self._closed = False
        self._known: dict[str, Operation] = {}
        self._number: dict[str, int] = {}
        self._kinds: list[str] = []
        self._counts: list[int] = []
        self._since: list[int] = []
        """How many operations had ended when each kind began."""
        self._operations = self._next = self._untold = 0
        self._readings = Readings(
            read=self._read, managed_bytes=self._managed_bytes, free=self._free, clock=self._clock
        )
        self._history = History(settings.most_points)
        self._suspect = Suspect(
            self._history,
            self._contract,
            least_points=settings.least_points,
            least_bytes=self._least_growth,
            confidence=settings.confidence,
        )
        self._jumped = Jumps(self._jump_bytes, settings.jump_operations)
        self._baseline: int | None = None
        self._before: dict[str, int] = {}
        """What consumers held at the baseline."""
        self._suspicions = self._jumps = 0
        self._verdict: Verdict | None = None

    def _enter(self, kind: str) -> int:
        number = self._number[kind] = len(self._kinds)
        self._kinds.append(kind)
        self._counts.append(0)
        self._since.append(self._operations)
        return number

    def _warms(self, number: int) -> bool:
        """Whether the kind of that number has not yet warmed up."""
        warmup = self._settings.warmup_operations
        return self._counts[number] < warmup and self._operations - self._since[number] < _WARM_UP_SPAN * warmup

    def _begun(self, kind: str) -> None:
        """Of kinds that warm up: what grew before this operation is not its own, and counts."""
        with self._lock:
            known, number = self._known.get(kind), self._number.get(kind)
            if known is not None and number is not None and not self._warms(number):
                known.begun = None  # it need not ask any more
                return
        if not self._closed and self._looking.acquire(blocking=False):
            try:
                if not self._acting and not self._attribution.active:
                    self._readings.mark()
            except Exception:  # noqa: BLE001 -- as when it ends
                _log.exception("reading memory failed before an operation of kind %s", kind)
            finally:
                self._looking.release()

    def _ended(self, kind: str) -> None:
        if self._closed:
            return
        with self._lock:
            number = self._number.get(kind)
            if number is None:  # marked by an operation of before a fork
                number = self._enter(kind)
            warms = self._warms(number)
            self._counts[number] += 1
            self._operations += 1
            if self._operations < self._next and not warms:
                return
            self._next = self._operations + self._settings.every_operations
        if self._looking.acquire(blocking=False):
            try:
                if not self._acting:
                    self._acting = True
                    self._act(kind, warms=warms)
            finally:
                self._looking.release()

    def _act(self, kind: str, *, warms: bool) -> None:
        try:
            self._look(kind, warms=warms)
        except Exception:  # noqa: BLE001 -- whoever is tracked must not fail for the watch's sake
            _log.exception("watching memory failed after an operation of kind %s", kind)
        finally:
            self._acting = False

    def _look(self, kind: str, *, warms: bool) -> None:
        if self._attribution.active:  # readings would show the experiment
            self._settle(self._attribution.operation_ended(self._operations))
            return
        raw = self._readings.take()
        if raw is None:
            return
        if warms:
            self._readings.warm(raw)
            self._jumped.clear()
            return
        with self._lock:
            point = self._readings.point(raw, operations=self._operations, counts=self._counts)
            completed = self._history.add(point)
        if completed and self._baseline is None:
            self._baseline = self._history.at(0).level_bytes
            self._before = held(self._consumers())
        risen = self._jumped.look(point)
        if risen is not None:
            self._on_jump(kind, risen)
        elif completed:
            with self._readings.unseen():
                found = self._suspect.look(managed=self._grown_consumer())
            if found is not None:
                self._on_creep(found)

    def _grown_consumer(self) -> bool:
        """Whether a consumer holds much more than at the baseline, and that is not what it is there for."""
        for consumer in self._consumers():
            name, used = next(iter(held((consumer,)).items()))
            limit = getattr(consumer, "limit_bytes", None)
            fills = isinstance(limit, int) and used <= limit
            if not fills and used - self._before.get(name, 0) >= self._least_growth // 2:
                return True
        return False

    # --- jumps ------------------------------------------------------------------------------------------------------

    def _on_jump(self, kind: str, risen: int) -> None:
        self._jumps += 1
        before = self._read() or 0
        error = ""
        try:
            self._recover()
        except Exception as caught:  # noqa: BLE001 -- foreign code may raise anything; the event says so
            _log.exception("the recovery from a jump of memory failed")
            error = f"{type(caught).__name__}: {caught}"
        freed = max(before - (self._read() or 0), 0)
        _log.warning("memory rose by %d bytes within a few operations (%s); %d were given back", risen, kind, freed)
        within = self._settings.jump_operations
        self._publish(MemoryJumped(kind, risen, within, freed, error, at=self._clock.now()))

    # --- creep ------------------------------------------------------------------------------------------------------

    def _on_creep(self, found: Found) -> None:
        self._suspicions += 1
        managed = found.reason == "managed"
        shares = rates(found.points, "managed") if managed else sharpest(found.points)
        kinds = tuple(self._kinds[each] for each in culprits(shares))
        grown, per_1000 = found.growth_bytes, round(found.bytes_per_operation * 1_000)
        _log.warning("memory creeps: %d bytes over %d operations (%s)", grown, found.operations, ", ".join(kinds))
        self._publish(CreepSuspected(found.reason, grown, found.operations, per_1000, kinds, at=self._clock.now()))
        # A broken contract is told at once. Whether it goes on, and so whose it is, only a trend can tell.
        if self._settings.attribute and found.reason != "contract":
            suspicion = Suspicion(grown, found.bytes_per_operation, kinds, self._before, managed=managed)
            self._settle(self._attribution.begin(suspicion, operations=self._operations))

    def _settle(self, verdict: Verdict | None) -> None:
        self._jumped.clear()
        if verdict is None:
            return
        self._verdict = verdict
        if verdict.culprit == "unclear":
            self._suspect.doubt()
        _log.warning("memory creep: %s %s (%s)", verdict.culprit, verdict.name, "; ".join(verdict.evidence))
        self._publish(
            LeakAttributed(
                verdict.culprit,
                verdict.name,
                verdict.bytes,
                verdict.confidence,
                verdict.kinds,
                verdict.evidence,
                at=self._clock.now(),
            )
        )

    def _own_attribution(self, whole: int) -> Attribution:
        settings = self._settings
        tracing = None
        if settings.trace:
            most = settings.trace_memory.resolve(whole)
            tracing = Tracing(most_s=settings.trace_s, most_bytes=most, clock=self._clock)
        return Attribution(
            read=self._read,
            consumers=self._consumers,
            managed_bytes=self._managed_bytes,
            tracing=tracing,
            most_operations=settings.trace_operations,
        )

    def forked(self) -> None:
        """In the child of a fork: memory is another, and locks may be held by threads that are not there."""
        closed = self._closed
        self._attribution.forget()
        self._start()
        self._closed = closed


@cache
def of_process() -> Creep:
    """The watch of this process, for those who track without a bank: no consumers, and a trim where memory jumps."""
    return Creep(recover=trim)


def track(kind: str) -> Operation:
    """Mark operations of a kind in the watch of this process: see `Creep.track`; `of_process().report()` tells."""
    return of_process().track(kind)


_ALIVE: weakref.WeakSet[Creep] = weakref.WeakSet()
"""For forks alone: there is no other way to learn of one, and a handler can't be taken back."""


def _ignored(_: str) -> None:
    """What a disabled watch does when an operation ends."""


def _after_fork() -> None:
    for creep in list(_ALIVE):
        creep.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

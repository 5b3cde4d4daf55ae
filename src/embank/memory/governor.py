"""The governor: keeps what Embank holds within its budget.

Two ledgers. *Managed* is what consumers say they hold; it decides whom to ask. *Real* is what the kernel says can't be
taken back; it decides whether there is room. What an action freed is measured, never believed.

Real memory stands under two constraints: the process tree against the budget, and the control group against its own
limit. The one with less room left counts; `real_bytes` is then "budget less that room", so that one number serves both.
Where the kernel can't be asked for memory as it is now (no /proc), real is what consumers say, and `source` says so.

Work reserves bytes before it starts (`reserve`); pressure moves the ladder (`check`), which asks consumers, trims the
allocator, and in the end refuses new work. Whoever owns the process calls `check` about once a second; the governor has
no thread of its own.

Thread-safe. Consumers and actions are called with nothing locked.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from embank.errors import BudgetExceeded, InvalidInput
from embank.events.kinds import ActionTaken, Event, MemoryReleased, ReservationRefused, RungEntered, RungLeft
from embank.memory.consumer import Consumer
from embank.memory.ladder import Ladder, Rung, Step
from embank.memory.meter import Meter, SystemMeter
from embank.memory.reserve import Book, Reservation, Room
from embank.memory.roster import Action, Entry, Registration, Roster
from embank.memory.snapshot import Gauge, MemorySnapshot
from embank.memory.trim import Trimmer, supported
from embank.system.clock import Clock, SystemClock
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.events.stream import Stream
    from embank.memory.settings import Settings

__all__ = ["Governor", "MemorySnapshot", "Registration", "Reservation"]

_log = get_logger(__name__)

_MARGIN = 0.01
"""How far below a rung's way down its actions aim, as a part of the room: so that it is left, not just reached."""

_ASKABLE = {"release"}
"""Rungs whose consumers may be asked at any time, whatever the pressure."""


class Governor:
    """See the module.

    `baseline_bytes` is what the process held before Embank came into it: 0 in Embank's own processes, where the budget
    is absolute; in someone else's process, what the meter says at the start, so that the host's own data do not count.
    """

    def __init__(
        self,
        budget_bytes: int,
        *,
        meter: Meter | None = None,
        clock: Clock | None = None,
        stream: Stream | None = None,
        baseline_bytes: int = 0,
        settings: Settings | None = None,
    ) -> None:
        if settings is None:
            from embank.memory.settings import Settings  # pydantic, which a bare governor's importer may never need

            settings = Settings()
        self._settings = settings
        self._budget_bytes = _checked(budget_bytes)
        self._baseline_bytes = baseline_bytes
        self._meter = meter or SystemMeter()
        self._clock = clock or SystemClock()
        self._stream = stream
        self._floor_bytes: int | None = None
        self._peak_bytes = 0
        self._blind_bytes = 0
        """What consumers said last; stands for real memory where the meter is blind."""
        self._checked_at_s: float | None = None
        self._would: tuple[str, ...] = ()
        self._actions = self._futile = self._freed_bytes = 0
        self._state = threading.RLock()
        self._checking = threading.Lock()
        self._ladder = Ladder(settings.rungs(), cooldown_s=settings.cooldown_s, clock=self._clock)
        self._roster = Roster(self._clock, settings.slow_release_s)
        self._book = Book(measure=self._room, relieve=self.relieve, on_refused=self._on_refused, clock=self._clock)
        self._trimmer = Trimmer(
            interval_s=settings.trim_interval_s,
            least_bytes=settings.trim_least.resolve(budget_bytes),
            clock=self._clock,
        )
        if supported():
            self.register_action("trim", "trim the allocator", self._collect_and_trim)

    # --- who holds bytes --------------------------------------------------------------------------------------------

    def register(self, consumer: Consumer, *, rung: str = "release") -> Registration:
        """Take a consumer in; it is asked for bytes when the ladder is on `rung`; those of `release` by `reserve`, too.

        Raises `InvalidInput` for a rung that the ladder does not have.
        """
        return self._enrol(Entry(consumer, str(consumer.name), self._known(rung).name))

    def register_action(self, rung: str, name: str, act: Callable[[], int]) -> Registration:
        """Have `act` called when the ladder is on `rung`. It returns the bytes that it believes to have freed."""
        return self._enrol(Action(self._known(rung).name, name, act))

    def _enrol(self, doer: Entry | Action) -> Registration:
        def close() -> None:
            self._roster.remove(doer)
            with self._state:
                self._ladder.forget(doer)

        self._roster.add(doer)
        return Registration(close)

    # --- reservations -----------------------------------------------------------------------------------------------

    def reserve(
        self, what: str, wanted_bytes: int, *, least_bytes: int | None = None, wait_s: float = 0.0
    ) -> Reservation:
        """Promise memory to work that is about to start: a context manager with `granted_bytes`.

        Grants `wanted_bytes` if they are there, or are after consumers were asked for what is missing; else what is
        there, if that is at least `least_bytes` (by default all that is wanted). Else, while other work holds
        reservations, it waits up to `wait_s` in line.

        Raises `BudgetExceeded` when that fails; at once when `least_bytes` could never be had (they exceed the budget
        less the floor) and while the ladder refuses new work.
        """
        self._look()
        return self._book.reserve(what, wanted_bytes, least_bytes=least_bytes, wait_s=wait_s)

    def available_bytes(self) -> int:
        """Bytes that could be reserved now without asking anybody to release any."""
        self._look()
        return max(self._gauge().room_bytes - self._book.reserved_bytes, 0)

    @property
    def budget_bytes(self) -> int:
        """The budget. May be set at any time; raising it serves those that wait."""
        return self._budget_bytes

    @budget_bytes.setter
    def budget_bytes(self, value: int) -> None:
        self._budget_bytes = _checked(value)
        self._book.wake()

    # --- giving back ------------------------------------------------------------------------------------------------

    def relieve(self, wanted_bytes: int) -> int:
        """Ask consumers for bytes, the cheapest to rebuild first, then trim; the bytes really freed, as measured.

        What a consumer's books bear out is counted at first, since the allocator may still hold it; where the trim
        then shows less, the remaining consumers are asked, too. Other threads that allocate meanwhile lower the figure.
        """
        if wanted_bytes <= 0:
            return 0
        before = self._real()
        pending = self._roster.cheapest_first(_ASKABLE)
        freed_bytes = 0
        while True:
            expected_bytes = freed_bytes
            while pending and expected_bytes < wanted_bytes:
                expected_bytes += self._release(pending.pop(0), wanted_bytes - expected_bytes)
            freed_bytes = before - self._real()
            if freed_bytes < wanted_bytes:
                self._trimmer.run(at_once=True)
                freed_bytes = before - self._real()
            if freed_bytes >= wanted_bytes or not pending:
                return max(freed_bytes, 0)

    # --- the ladder -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at memory and move on the ladder, taking the actions that are due; never raises for a consumer's sake.

        Cheap when there is nothing to do (a reading), and nothing at all when the last look is `check_interval_s` ago
        or less, or another thread is at it: a consumer that never returns stops the ladder, though no reservation.
        """
        if not self._checking.acquire(blocking=False):
            return
        try:
            now_s = self._clock.monotonic()
            if self._checked_at_s is not None and now_s - self._checked_at_s < self._settings.check_interval_s:
                return
            self._checked_at_s = now_s
            self._look()
            self._climb()
        finally:
            self._checking.release()
        self._book.wake()

    def managed_bytes(self) -> int:
        """What consumers say they hold, asked now."""
        return sum(count for _, count in self._roster.held())

    def settle(self) -> None:
        """Take the floor: what is held that no consumer accounts for, now that everything is loaded and warm.

        Call it once, when warm. Never after a recovery: that would hide creep.
        """
        managed_bytes = self.managed_bytes()
        self._look()
        with self._state:
            self._floor_bytes = max(self._gauge().real_bytes - managed_bytes, 0)

    def snapshot(self) -> MemorySnapshot:
        """Both ledgers, the rung and the counters, as of now."""
        consumers = self._roster.held()
        self._look()
        gauge = self._gauge()
        counters = self._roster.counters
        rung = self._ladder.rung
        return MemorySnapshot.of(
            gauge,
            consumers=consumers,
            settled=self._floor_bytes is not None,
            baseline_bytes=self._baseline_bytes,
            reserved_bytes=self._book.reserved_bytes,
            peak_bytes=self._peak_bytes,
            rung=None if rung is None else rung.name,
            dry_run=self._settings.dry_run,
            would=self._would,
            granted=self._book.granted,
            refused=self._book.refused,
            waiting=self._book.waiting,
            actions=self._actions,
            actions_futile=self._futile,
            freed_bytes=self._freed_bytes,
            trims=self._trimmer.trims,
            consumers_failed=counters.failed,
            consumers_slow=counters.slow,
            consumers_false=counters.false,
        )

    # --- measuring --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Where the meter is blind, ask consumers what they hold; with nothing locked, since this calls them."""
        if self._gauge().source == "peak":
            self._blind_bytes = sum(count for _, count in self._roster.held())

    def _gauge(self) -> Gauge:
        """Read memory and lay it against the budget. Calls no consumer."""
        gauge = Gauge.of(
            self._meter.read(),
            budget_bytes=self._budget_bytes,
            baseline_bytes=self._baseline_bytes,
            floor_bytes=self._floor_bytes or 0,
            managed_bytes=self._blind_bytes,
        )
        with self._state:
            self._peak_bytes = max(self._peak_bytes, gauge.real_bytes)
        return gauge

    def _real(self) -> int:
        self._look()
        return self._gauge().real_bytes

    def _room(self) -> Room:
        """For the book, which is locked. Lets the ladder come down, so that a rung does not outlive its reason."""
        gauge = self._gauge()
        with self._state:
            step = self._ladder.ease(gauge.pressure)
            refusing = self._ladder.refusing and not self._settings.dry_run
        self._announce(step, gauge)
        return Room(
            left_bytes=gauge.room_bytes,
            most_bytes=gauge.budget_bytes - gauge.floor_bytes,
            budget_bytes=gauge.budget_bytes,
            refusing=refusing,
        )

    # --- acting -----------------------------------------------------------------------------------------------------

    def _climb(self) -> None:
        """Step and act until the ladder rests: at most once for each rung."""
        would: list[str] = []
        for _ in self._ladder.rungs:
            gauge = self._gauge()
            with self._state:
                step = self._ladder.step(gauge.pressure)
                active = self._ladder.active
            self._announce(step, gauge)
            for rung in active:
                would += self._act_on(rung)
            if step.entered is None:
                break
        self._would = tuple(would)

    def _act_on(self, rung: Rung) -> list[str]:
        """Take the rung's actions that are due, until pressure is below the rung; in a dry run only name them."""
        named: list[str] = []
        doers: list[Entry | Action] = [*self._roster.cheapest_first({rung.name}), *self._roster.actions(rung.name)]
        for doer in doers:
            gauge = self._gauge()
            if gauge.pressure < rung.leave:
                break
            name = f"release {doer.name}" if isinstance(doer, Entry) else doer.name
            with self._state:
                if not self._ladder.may_act(rung, doer, gauge.pressure):
                    continue
            if self._settings.dry_run:
                named.append(name)
                _log.info("at rung %s, pressure %.2f: would %s", rung.name, gauge.pressure, name)
            else:
                self._do(rung, name, doer, gauge)
        return named

    def _do(self, rung: Rung, name: str, doer: Entry | Action, gauge: Gauge) -> None:
        began_s = self._clock.monotonic()
        if isinstance(doer, Entry):
            self._release(doer, gauge.bytes_above(rung.leave - _MARGIN))
        else:
            self._roster.act(doer)
        seconds = self._clock.monotonic() - began_s
        self._look()
        after = self._gauge()
        freed_bytes = max(gauge.real_bytes - after.real_bytes, 0)
        with self._state:
            helped = self._ladder.acted(rung, doer, before=gauge.pressure, after=after.pressure)
            self._actions += 1
            self._futile += not helped
        _log.info("at rung %s: %s freed %d bytes in %.3f s", rung.name, name, freed_bytes, seconds)
        self._publish(ActionTaken(rung.name, name, freed_bytes, seconds, at=self._clock.now()))

    def _release(self, entry: Entry, wanted_bytes: int) -> int:
        """Ask one consumer; the bytes that it can be believed to have freed (measured, or borne out by its books)."""
        before = self._gauge().real_bytes
        answer = self._roster.ask(entry, wanted_bytes)
        freed_bytes = max(before - self._real(), 0)
        self._roster.judge(entry, answer, measured_bytes=freed_bytes)
        with self._state:
            self._freed_bytes += freed_bytes
        if answer.claimed_bytes or answer.booked_bytes:
            self._publish(MemoryReleased(entry.name, wanted_bytes, freed_bytes, at=self._clock.now()))
        return max(freed_bytes, min(answer.claimed_bytes, answer.booked_bytes))

    def _collect_and_trim(self) -> int:
        gc.collect()
        self._trimmer.run()
        return 0  # what came of it is measured

    # --- telling ----------------------------------------------------------------------------------------------------

    def _announce(self, step: Step, gauge: Gauge) -> None:
        at = self._clock.now()
        facts = (gauge.pressure, gauge.real_bytes, gauge.budget_bytes)
        for rung in step.left:
            _log.info("left memory rung %s at pressure %.2f", rung.name, gauge.pressure)
            self._publish(RungLeft(rung.name, *facts, at=at))
        if step.entered is not None:
            _log.warning("entered memory rung %s at pressure %.2f", step.entered.name, gauge.pressure)
            self._publish(RungEntered(step.entered.name, *facts, at=at))

    def _on_refused(self, error: BudgetExceeded) -> None:
        _log.info("refused: %s", error)  # raised, too: whoever asked tells the user
        what, wanted, available = (error.fields[key] for key in ("what", "wanted_bytes", "available_bytes"))
        self._publish(ReservationRefused(what, wanted, available, at=self._clock.now()))

    def _publish(self, event: Event) -> None:
        if self._stream is not None:
            self._stream.publish(event)

    def _known(self, rung: str) -> Rung:
        for known in self._ladder.rungs:
            if known.name == rung:
                return known
        names = ", ".join(known.name for known in self._ladder.rungs)
        raise InvalidInput(f"the memory ladder has no rung {rung!r}: there are {names}", rung=rung)


def _checked(budget_bytes: int) -> int:
    if budget_bytes < 1:
        raise InvalidInput(f"a memory budget must be positive, not {budget_bytes}", budget_bytes=budget_bytes)
    return budget_bytes

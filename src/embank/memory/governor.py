"""The governor: keeps what Embank holds within its budget.

Two ledgers. *Managed* is what consumers say they hold; it decides whom to ask. *Real* is what the kernel says can't be
taken back; it decides whether there is room. What an action freed is measured, never believed.

Real memory stands under two constraints: the process tree against the budget, and the control group against its own
limit. The one with less room left counts; `real_bytes` is then "budget less that room", so that one number serves both.
Where the kernel can't be asked for memory as it is now (no /proc), real is what consumers say, and `source` says so.

Work reserves bytes before it starts (`reserve`); pressure moves the ladder (`check`), which asks consumers, trims the
allocator, shrinks bulk work, unloads and recycles models as it was told to, and in the end refuses new work. A
`Monitor` calls `check` about once a second; without one, whoever owns the process does.

This file is what others call. Measuring is in `scales`, the ladder's rules in `ladder`, acting in `acting`, promises in
`reserve`, events and the log in `telling`.

Thread-safe. Consumers and actions are called with nothing locked, and waited for no longer than `slow_release_s`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from embank.errors import InvalidInput
from embank.memory.acting import Actor
from embank.memory.consumer import Consumer
from embank.memory.ladder import Ladder, Rung
from embank.memory.meter import Meter, SystemMeter
from embank.memory.pressure import StallReader
from embank.memory.priority import Priority, current
from embank.memory.reserve import Book, Reservation, Room
from embank.memory.roster import Action, Entry, Registration, Roster
from embank.memory.scales import LEAST_ROOM_BYTES, Scales
from embank.memory.snapshot import MemorySnapshot, MonitorState
from embank.memory.telling import Teller
from embank.memory.trim import Trimmer, supported
from embank.system.clock import Clock, Stopwatch, SystemClock

if TYPE_CHECKING:
    from embank.events.stream import Stream
    from embank.memory.settings import Settings

__all__ = ["Governor", "MemorySnapshot", "Registration", "Reservation"]


class Governor:
    """See the module.

    `baseline_bytes` is what the process held before Embank came into it: 0 in Embank's own processes, where the budget
    is absolute; in someone else's process, what the meter says at the start, so that the host's own data do not count.

    Raises `InvalidInput` for a budget of 0 and `BudgetBelowFloor` for one that is held already by what can't be
    released, both with the least that would work (field `least_bytes`). A budget above the control group's limit is cut
    to that, and `BudgetCapped` says so.
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
        stalls: StallReader | None = None,
    ) -> None:
        if settings is None:
            from embank.memory.settings import Settings  # pydantic, which a bare governor's importer may never need

            settings = Settings()
        self._settings = settings
        self._clock = clock or SystemClock()
        self._stalls = stalls or StallReader()
        self._roster = Roster(self._clock, settings.slow_release_s)
        self._scales = Scales(
            meter or SystemMeter(), baseline_bytes=baseline_bytes, managed_bytes=self._roster.managed_bytes
        )
        self._teller = Teller(stream, self._clock)
        self._actor = Actor(
            Ladder(settings.rungs(), cooldown_s=settings.cooldown_s, clock=self._clock),
            self._roster,
            self._scales,
            Trimmer(
                interval_s=settings.trim_interval_s,
                least_bytes=settings.trim_least.resolve(max(budget_bytes, 1)),
                clock=self._clock,
            ),
            self._teller,
            dry_run=settings.dry_run,
            clock=self._clock,
        )
        self._book = Book(
            measure=self._room,
            relieve=self._actor.relieve,
            on_refused=self._teller.refused,
            on_paused=self._paused,
            bulk_patience_s=settings.bulk_patience_s,
            shrink_to=settings.shrink_to,
            clock=self._clock,
        )
        self._checking = threading.Lock()
        self._checked: Stopwatch | None = None
        self._heard: Stopwatch | None = None
        self._monitor: Callable[[], MonitorState] | None = None
        self._set_budget(budget_bytes)
        if supported():
            self.register_action("trim", "trim the allocator", self._actor.collect_and_trim)
        _governors.add(self)

    # --- who holds bytes --------------------------------------------------------------------------------------------

    def register(self, consumer: Consumer, *, rung: str = "release", in_child: bool = False) -> Registration:
        """Take a consumer in; it is asked for bytes when the ladder is on `rung`.

        Those of `release`, and then those of `unload`, are also asked by `reserve`. `in_child`: what it holds is in
        another process of the tree, so that it explains no growth of this one. Raises `InvalidInput` for a rung that
        the ladder does not have.
        """
        return self._enrol(Entry(consumer, str(consumer.name), self._known(rung).name, in_child))

    def register_action(
        self, rung: str, name: str, act: Callable[[], int], *, after_s: float | None = None
    ) -> Registration:
        """Have `act` called when the ladder is on `rung`. It returns the bytes that it believes to have freed.

        `after_s`: only once the rung has stood for so long without a break; by default at once, but on the rung that
        refuses new work `memory.restart_after_s`, since what is left to do there is to ask for a restart. An act that
        takes longer than `memory.slow_release_s` goes on by itself, and is not called again before it has ended.
        """
        known = self._known(rung)
        if after_s is None:
            after_s = self._settings.restart_after_s if known.refuses else 0.0
        return self._enrol(Action(known.name, name, act, after_s))

    def _enrol(self, doer: Entry | Action) -> Registration:
        self._roster.add(doer)
        return Registration(lambda: self._actor.forget(doer))

    # --- reservations -----------------------------------------------------------------------------------------------

    def reserve(
        self,
        what: str,
        wanted_bytes: int,
        *,
        least_bytes: int | None = None,
        wait_s: float = 0.0,
        priority: Priority | None = None,
    ) -> Reservation:
        """Promise memory to work that is about to start: a context manager with `granted_bytes`.

        Grants `wanted_bytes` if they are there, or are after consumers were asked for what is missing; else what is
        there, if that is at least `least_bytes` (by default all that is wanted). Else, while other work holds
        reservations, it waits up to `wait_s` in line.

        `priority` is that of the thread's work unless it is given (`priority.bulk_work`): interactive requests come
        before bulk ones, and bulk ones get less, and wait, while memory is short. `reserve` (the module) has the rules.

        Raises `BudgetExceeded` when that fails; at once when `least_bytes` could never be had (they exceed the budget
        less the floor) and, for interactive work, while the ladder refuses new work.
        """
        if not self._settings.enabled:
            return Reservation(what, wanted_bytes, lambda _: None)
        self._scales.look()
        bulk = (priority or current()) == "bulk"
        return self._book.reserve(what, wanted_bytes, least_bytes=least_bytes, wait_s=wait_s, bulk=bulk)

    def available_bytes(self) -> int:
        """Bytes that could be reserved now without asking anybody to release any."""
        self._scales.look()
        return max(self._scales.gauge().room_bytes - self._book.reserved_bytes, 0)

    @property
    def budget_bytes(self) -> int:
        """The budget. May be set at any time, to what the constructor would accept.

        Raising it serves those that wait; lowering it below what is held has consumers release at once, and the ladder
        look at it.
        """
        return self._scales.budget_bytes

    @budget_bytes.setter
    def budget_bytes(self, value: int) -> None:
        self._set_budget(value)
        above_bytes = -self.headroom_bytes()
        if above_bytes > 0 and self._settings.enabled and not self._settings.dry_run:
            self._actor.relieve(above_bytes, "a smaller budget")
        self.check(at_once=True)
        self._book.wake()

    def headroom_bytes(self) -> int:
        """What is left below the budget (or the control group's limit), reservations aside; negative above it."""
        self._scales.look()
        return self._scales.gauge().room_bytes

    # --- giving back ------------------------------------------------------------------------------------------------

    def relieve(self, wanted_bytes: int, why: str = "asked for") -> int:
        """Ask consumers for bytes, the cheapest to rebuild first, then trim; the bytes really freed, as measured.

        What a consumer's books bear out is counted at first, since the allocator may still hold it; where the trim
        then shows less, the remaining consumers are asked, too. Other threads that allocate meanwhile lower the figure.
        """
        return self._actor.relieve(wanted_bytes, why)

    def report_pressure(self, source: str) -> int:
        """The kernel says that memory is short: look at once, and give back a part of what is held; the bytes freed.

        At most once in `cooldown_s`, since such reports come in bursts. `source` says who reported it.
        """
        if self._heard is not None and self._heard.passed_s() < self._settings.cooldown_s:
            return 0
        self._heard = took = Stopwatch(self._clock)
        self.check(at_once=True)
        if not self._settings.enabled or self._settings.dry_run:
            return 0
        before_bytes = self._scales.real_bytes()
        wanted_bytes = int(self.managed_bytes() * self._settings.kernel_release)
        freed_bytes = self._actor.relieve(wanted_bytes, "the kernel")
        self._teller.reported(source, before_bytes, freed_bytes, took.passed_s())
        self._book.wake()
        return freed_bytes

    # --- the ladder -------------------------------------------------------------------------------------------------

    def check(self, *, at_once: bool = False) -> None:
        """Look at memory and move on the ladder, taking the actions that are due; never raises for a consumer's sake.

        Cheap when there is nothing to do (a reading), and nothing at all when another thread is at it or, unless
        `at_once`, when the last look is less than `check_interval_s` ago. Each action is waited for `slow_release_s` at
        most.
        """
        if not self._settings.enabled or not self._checking.acquire(blocking=False):
            return
        try:
            checked = self._checked
            if not at_once and checked is not None and checked.passed_s() < self._settings.check_interval_s:
                return
            self._checked = Stopwatch(self._clock)
            self._scales.look()
            self._actor.climb()
        finally:
            self._checking.release()
        self._book.wake()

    def managed_bytes(self) -> int:
        """What consumers say they hold, asked now."""
        return self._roster.managed_bytes()

    def managed_here_bytes(self) -> int:
        """What consumers say they hold in this process."""
        return self._roster.managed_here_bytes()

    def consumers_here(self) -> tuple[Consumer, ...]:
        """Consumers that hold something in this process, not in a child."""
        return self._roster.consumers_here()

    def settle(self) -> None:
        """Take the floor: what is held that no consumer accounts for, now that everything is loaded and warm.

        Call it once, when warm. Never after a recovery: that would hide creep. A floor above the budget is told as
        `BudgetTooSmall`.
        """
        floor_bytes = self._scales.settle()
        if floor_bytes >= self.budget_bytes:
            least_bytes = floor_bytes + max(LEAST_ROOM_BYTES, self._book.largest_least_bytes)
            self._teller.too_small(self.budget_bytes, floor_bytes, least_bytes)

    def watch_with(self, monitor: Callable[[], MonitorState] | None) -> None:
        """Who samples, for the snapshot to tell."""
        self._monitor = monitor

    def snapshot(self) -> MemorySnapshot:
        """Both ledgers, the rung and the counters, as of now."""
        consumers = self._roster.held()
        self._scales.look()
        rungs, active = self._actor.state()
        counters = self._roster.counters
        return MemorySnapshot.of(
            self._scales.gauge(),
            consumers=consumers,
            settled=self._scales.floor_bytes is not None,
            baseline_bytes=self._scales.baseline_bytes,
            reserved_bytes=self._book.reserved_bytes,
            peak_bytes=self._scales.peak_bytes,
            rungs=rungs,
            active=active,
            limited=self._settings.enabled,
            dry_run=self._settings.dry_run,
            would=self._actor.would,
            last_actions=self._teller.last_actions,
            trim_support=supported().reason,
            stall=self._stalls.read(),
            monitor=None if self._monitor is None else self._monitor(),
            granted=self._book.granted,
            refused=self._book.refused,
            paused=self._book.paused,
            waiting=self._book.waiting,
            actions=self._actor.actions,
            actions_futile=self._actor.futile,
            freed_bytes=self._actor.freed_bytes,
            trims=self._actor.trimmer.trims,
            consumers_failed=counters.failed,
            consumers_slow=counters.slow,
            consumers_false=counters.false,
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        """Start over in the child after a fork, where locks may be held by threads that are not there."""
        self._checking = threading.Lock()
        self._scales.renew()
        self._actor.renew()
        self._book.renew()
        self._teller.renew()

    def _set_budget(self, budget_bytes: int) -> None:
        weighed = self._scales.weigh(budget_bytes, largest_work_bytes=self._book.largest_least_bytes)
        before_bytes, self._scales.budget_bytes = self._scales.budget_bytes, weighed.budget_bytes
        self._teller.budget(before_bytes, weighed)

    def _room(self) -> Room:
        """For the book, which is locked. Lets the ladder come down, so that a rung does not outlive its reason."""
        gauge = self._scales.gauge()
        shrinking, refusing = self._actor.ease(gauge)
        return Room(
            left_bytes=gauge.room_bytes,
            most_bytes=gauge.budget_bytes - gauge.floor_bytes,
            budget_bytes=gauge.budget_bytes,
            shrinking=shrinking,
            refusing=refusing,
        )

    def _paused(self, what: str) -> None:
        _, active = self._actor.state()
        halting = [rung for rung in active if rung.shrinks or rung.refuses]
        self._teller.paused(what, halting[0] if halting else None)

    def _known(self, rung: str) -> Rung:
        for known in self._actor.ladder.rungs:
            if known.name == rung:
                return known
        names = ", ".join(known.name for known in self._actor.ladder.rungs)
        raise InvalidInput(f"the memory ladder has no rung {rung!r}: there are {names}", rung=rung)


# Every governor of the process, for the one hook after a fork: hooks can't be unregistered, so one each would leak.
_governors: weakref.WeakSet[Governor] = weakref.WeakSet()


def _renew_after_fork() -> None:
    for governor in list(_governors):
        governor.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)

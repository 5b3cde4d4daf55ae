"""Acting: moving on the ladder, taking what is due there, and asking consumers for bytes.

What an action freed is measured, never believed. Consumers and actions are called with nothing locked, and none of them
is waited for longer than a slow release may take (see `roster`).
"""

from __future__ import annotations

import gc
import threading

from embank.memory.ladder import Ladder, Rung
from embank.memory.roster import Action, Entry, Roster
from embank.memory.scales import Scales
from embank.memory.snapshot import Gauge
from embank.memory.telling import Teller
from embank.memory.trim import Trimmer
from embank.system.clock import Clock, Stopwatch

_MARGIN = 0.01
"""How far below a rung's way down its actions aim, as a part of the room: so that it is left, not just reached."""

_ASKABLE = ("release", "unload")
"""Rungs whose consumers may be asked at any time, whatever the pressure, and in this order: an idle model goes before
work is refused, but not before caches."""


class Actor:
    """See the module. Thread-safe; `climb` is called by one thread at a time."""

    def __init__(
        self,
        ladder: Ladder,
        roster: Roster,
        scales: Scales,
        trimmer: Trimmer,
        teller: Teller,
        *,
        dry_run: bool,
        clock: Clock,
    ) -> None:
        self.roster = roster
        self.ladder = ladder
        self._scales = scales
        self.trimmer = trimmer
        self._teller = teller
        self._dry_run = dry_run
        self._clock = clock
        self._lock = threading.RLock()  # guards the ladder, and what follows
        self.would: tuple[str, ...] = ()
        self.actions = 0
        self.futile = 0
        self.freed_bytes = 0

    def forget(self, doer: Entry | Action) -> None:
        """It is on the roster no longer."""
        self.roster.remove(doer)
        with self._lock:
            self.ladder.forget(doer)

    def renew(self) -> None:
        """Start over in the child after a fork, where no other thread holds a lock."""
        self._lock = threading.RLock()
        self.roster.renew()
        self.trimmer.renew()

    def state(self) -> tuple[tuple[Rung, ...], tuple[Rung, ...]]:
        """All rungs, and the active ones."""
        with self._lock:
            return self.ladder.rungs, self.ladder.active

    # --- the ladder -------------------------------------------------------------------------------------------------

    def ease(self, gauge: Gauge) -> tuple[bool, bool]:
        """Come down as far as pressure allows; whether the ladder then shrinks bulk work, and refuses new work."""
        with self._lock:
            step = self.ladder.ease(gauge.pressure)
            enforced = not self._dry_run
            state = (enforced and self.ladder.shrinking, enforced and self.ladder.refusing)
        self._teller.moved(step, gauge)
        return state

    def climb(self) -> None:
        """Step and act until the ladder rests: at most once for each rung."""
        would: list[str] = []
        for _ in self.ladder.rungs:
            gauge = self._scales.gauge()
            with self._lock:
                step = self.ladder.step(gauge.pressure)
                active = self.ladder.active
            self._teller.moved(step, gauge)
            for rung in active:
                would += self._act_on(rung)
            if step.entered is None:
                break
        self.would = tuple(would)

    def collect_and_trim(self) -> int:
        """What the rung trim does."""
        gc.collect()
        self.trimmer.run()
        return 0  # what came of it is measured

    def _act_on(self, rung: Rung) -> list[str]:
        """Take the rung's actions that are due, until pressure is below the rung; in a dry run only name them."""
        named: list[str] = []
        doers: list[Entry | Action] = [*self.roster.cheapest_first((rung.name,)), *self.roster.actions(rung.name)]
        for doer in doers:
            gauge = self._scales.gauge()
            if gauge.pressure < rung.leave:
                break
            name = f"release {doer.name}" if isinstance(doer, Entry) else doer.name
            after_s = doer.after_s if isinstance(doer, Action) else 0.0
            with self._lock:
                hindrance = self.ladder.hindrance(rung, doer, gauge.pressure, after_s=after_s)
            if hindrance is not None:
                if hindrance != "rung left":
                    self._teller.skipped(rung, name, hindrance, gauge)
            elif self._dry_run:
                named.append(name)
                self._teller.skipped(rung, name, "dry run", gauge)
            else:
                self._do(rung, name, doer, gauge)
        return named

    def _do(self, rung: Rung, name: str, doer: Entry | Action, gauge: Gauge) -> None:
        took = Stopwatch(self._clock)
        if isinstance(doer, Entry):
            wanted_bytes = gauge.bytes_above(rung.leave - _MARGIN)
            asked, done, _ = self._release(doer, wanted_bytes, f"rung {rung.name}")
        else:
            answer = self.roster.act(doer)
            asked, done = answer.asked, answer.done
        if not asked:
            self._teller.skipped(rung, name, "under way", gauge)
            return
        seconds = took.passed_s()
        self._scales.look()
        after = self._scales.gauge()
        freed_bytes = max(gauge.real_bytes - after.real_bytes, 0)
        with self._lock:
            self.actions += 1
            if done:
                self.futile += not self.ladder.acted(rung, doer, before=gauge.pressure, after=after.pressure)
            else:
                self.ladder.began(rung, doer)
        self._teller.acted(rung, name, gauge, freed_bytes=freed_bytes, seconds=seconds, done=done)

    # --- asking consumers -------------------------------------------------------------------------------------------

    def relieve(self, wanted_bytes: int, why: str) -> int:
        """See `Governor.relieve`."""
        if wanted_bytes <= 0:
            return 0
        before = self._scales.real_bytes()
        pending = self.roster.cheapest_first(_ASKABLE)
        freed_bytes = 0
        while True:
            expected_bytes = freed_bytes
            while pending and expected_bytes < wanted_bytes:
                expected_bytes += self._ask(pending.pop(0), wanted_bytes - expected_bytes, why)
            freed_bytes = before - self._scales.real_bytes()
            if freed_bytes < wanted_bytes:
                self.trimmer.run(at_once=True)
                freed_bytes = before - self._scales.real_bytes()
            if freed_bytes >= wanted_bytes or not pending:
                return max(freed_bytes, 0)

    def _ask(self, entry: Entry, wanted_bytes: int, why: str) -> int:
        took = Stopwatch(self._clock)
        before = self._scales.gauge().real_bytes
        asked, done, believed_bytes = self._release(entry, wanted_bytes, why)
        if asked:
            measured_bytes = max(before - self._scales.gauge().real_bytes, 0)
            reason = f"{wanted_bytes / 1e6:.1f} MB for {why}"
            self._teller.noted("", f"release {entry.name}", reason, measured_bytes, took.passed_s(), done=done)
        return believed_bytes

    def _release(self, entry: Entry, wanted_bytes: int, why: str) -> tuple[bool, bool, int]:
        """Ask one consumer: whether it was asked, whether it has ended, and how much it can be believed to have freed.

        That is what was measured, or what it claims and its books bear out.
        """
        before = self._scales.gauge().real_bytes
        answer = self.roster.ask(entry, wanted_bytes)
        freed_bytes = max(before - self._scales.real_bytes(), 0)
        if answer.done:
            self.roster.judge(entry, answer, measured_bytes=freed_bytes)
        with self._lock:
            self.freed_bytes += freed_bytes
        if answer.claimed_bytes or answer.booked_bytes:
            self._teller.released(entry.name, wanted_bytes, freed_bytes, why)
        believed_bytes = max(freed_bytes, min(answer.claimed_bytes, answer.booked_bytes))
        return answer.asked, answer.done, believed_bytes

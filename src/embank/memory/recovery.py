"""Recovery: what embedding leaves behind is cleaned up, off the request path, and each clean-up is measured.

A runtime frees its work buffers, but the allocator keeps the pages. Before each call growth over the floor is looked
at (a small read, at most every 20 ms); after every so many calls, on growth, when calls have ceased for a while and
when a model was unloaded, one daemon thread collects garbage, runs the hooks it was given (a device's cache, a worker),
and trims the allocator where that pays. It waits for a moment without calls, though not for ever.

What a concurrent request feels was measured (two cores, MiniLM int8, 48 MB to hand back ten times a second, a request
of 2.7 ms): a trim takes 2 ms, 8 at the 99th percentile, and requests go from 6.6 ms to 9.8 there; a whole garbage
collection of 60,000 objects takes 25 ms with the interpreter locked, so that under load only the younger generations
are collected, and the whole only when it is idle and will be short.

The floor is taken once, when the first model is warm, and never again: a clean-up that moved it would hide creep.

Does not decide about the budget: the governor does, and asks consumers. Does not find leaks.
"""

from __future__ import annotations

import gc
import mmap
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embank.events.kinds import Event, MemoryRecovered
from embank.memory.cgroups import read_bytes
from embank.memory.meter import Meter, SystemMeter, machine_limit
from embank.memory.roster import Registration
from embank.memory.trim import Trimmer
from embank.system.background import Background
from embank.system.clock import Clock, SystemClock
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.memory.recovery_settings import Settings

_log = get_logger(__name__)

_RAREST = 64.0
_MOST_FREQUENT = 0.25
_MOST_COLLECT_S = 0.05
"""A whole collection that would keep the interpreter locked for longer is left to Python, or to a person."""
_BLOCK_S = 1e-7
"""What a whole collection takes for each block that Python has allocated, until it was measured here."""
_FORGOTTEN = 0.9


def own_bytes() -> int | None:
    """Anonymous memory of this process, in 5 µs; None where there is no /proc."""
    try:
        pages = read_bytes("/proc/self/statm").split()
    except FileNotFoundError:
        return None
    return (int(pages[1]) - int(pages[2])) * mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class RecoveryState:
    """How recovery stands. Bytes; None where memory can't be read, or the floor was not taken yet.

    `every_calls` is how often it cleans up now. `last` is the latest clean-up.
    """

    recoveries: int
    recoveries_failed: int
    freed_bytes: int
    every_calls: int
    floor_bytes: int | None
    growth_bytes: int | None
    last: MemoryRecovered | None


class Recovery:
    """See the module. Thread-safe. Close it to end its thread, which the first call that needs it starts.

    `managed_bytes` answers what consumers say they hold: their growth is no residue. `read` reads this process's memory
    before calls, `meter` the process tree before and after a clean-up. `publish` gets each `MemoryRecovered`.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        managed_bytes: Callable[[], int] = lambda: 0,
        publish: Callable[[Event], object] = lambda _: None,
        clock: Clock | None = None,
        meter: Meter | None = None,
        read: Callable[[], int | None] = own_bytes,
        trimmer: Trimmer | None = None,
        collect: Callable[[int], object] = gc.collect,
    ) -> None:
        if settings is None:
            from embank.memory.recovery_settings import Settings  # pydantic, which its importer may never need

            settings = Settings()
        self._settings = settings
        self._growth_bytes = settings.growth.resolve(machine_limit())
        self._least_bytes = settings.trim_least.resolve(machine_limit())
        self._managed_bytes = managed_bytes
        self._publish = publish
        self._clock = clock or SystemClock()
        self._meter = meter or SystemMeter()
        self._read = read
        # When it is time is decided here; the trimmer decides whether it pays.
        self._trimmer = trimmer or Trimmer(interval_s=0.0, least_bytes=self._least_bytes, clock=self._clock)
        self._collect = collect
        self._hooks: dict[object, tuple[str, Callable[[], object]]] = {}
        self._thread = Background("embank-recovery", self._turn, clock=self._clock)
        self._cleaning = threading.Lock()
        self._lock = threading.Lock()  # guards what follows; nothing foreign is called while it is held
        self._closed = False
        self._floor: int | None = None
        self._active = 0
        self._since = 0
        """Calls begun since the last clean-up."""
        self._pending: tuple[str, float] | None = None
        """Why the next clean-up is due, and since when."""
        self._armed = False
        """Whether the thread will look again by itself."""
        self._ended_s = self._cleaned_s = self._read_s = float("-inf")
        self._rarity = 1.0
        self._left_growth = 0
        """Growth that the last clean-up left."""
        self._last: MemoryRecovered | None = None
        self._recoveries = self._failed = self._freed_bytes = 0
        self._block_s = _BLOCK_S

    # --- what embedding calls ---------------------------------------------------------------------------------------

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around an embedding call: looks at growth, and knows that one is under way. 5 µs, 20 with a look."""
        if not self._settings.enabled or self._closed:
            yield
            return
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def settle(self) -> None:
        """Take the floor: what is held beside the consumers, now that a model is warm. Only the first call counts."""
        if self._floor is not None:
            return
        held = self._read()
        if held is None:
            return
        floor = held - self._managed_bytes()
        with self._lock:
            if self._floor is None:
                self._floor = floor

    def request(self, trigger: str) -> None:
        """Have a clean-up soon, for the reason named: `unload`. Returns at once."""
        if not self._settings.enabled or self._closed:
            return
        with self._lock:
            self._pending = self._pending or (trigger, self._clock.monotonic())
        self._thread.wake()

    def recover_now(self) -> MemoryRecovered:
        """Clean up in this thread, all that can be, and return what came of it. Never raises for a hook's sake."""
        return self._clean("hand", whole=True)

    def add_hook(self, name: str, act: Callable[[], object]) -> Registration:
        """Have `act` called in each clean-up, before the trim; closing the registration ends that."""
        key = object()
        with self._lock:
            self._hooks = {**self._hooks, key: (name, act)}

        def remove() -> None:
            with self._lock:
                self._hooks = {other: hook for other, hook in self._hooks.items() if other is not key}

        return Registration(remove)

    def state(self) -> RecoveryState:
        """Counters, and where memory stands against the floor, read now."""
        growth = self._growth()
        with self._lock:
            return RecoveryState(
                recoveries=self._recoveries,
                recoveries_failed=self._failed,
                freed_bytes=self._freed_bytes,
                every_calls=self._every(),
                floor_bytes=self._floor,
                growth_bytes=growth,
                last=self._last,
            )

    def close(self) -> None:
        """End the thread, after the clean-up under way. Calls go on unwatched. May be repeated."""
        self._closed = True
        self._thread.close()

    # --- when it is due ---------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        now_s = self._clock.monotonic()
        with self._lock:
            self._active += 1
            self._since += 1
            looks = now_s - self._read_s >= self._settings.check_interval_s and self._may_clean(now_s)
            if looks:
                self._read_s = now_s
        growth = self._growth() if looks else None
        with self._lock:
            trigger = self._trigger(now_s, growth)
            if trigger is None:
                return
            self._pending = (trigger, now_s)
        self._thread.wake()

    def _trigger(self, now_s: float, growth: int | None) -> str | None:
        if self._pending is not None or not self._may_clean(now_s):
            return None
        # Growth that clean-ups don't change is no reason for another one soon: there is nothing to win.
        rested = now_s - self._cleaned_s >= self._settings.least_interval_s * self._rarity
        if growth is not None and growth > self._growth_bytes and (rested or self._rose(growth)):
            return "growth"
        return "calls" if self._since >= self._every() else None

    def _rose(self, growth: int) -> bool:
        return growth >= self._left_growth + self._growth_bytes // 4

    def _may_clean(self, now_s: float) -> bool:
        return now_s - self._cleaned_s >= self._settings.least_interval_s

    def _every(self) -> int:
        return max(round(self._settings.every_calls * self._rarity), 1)

    def _leave(self) -> None:
        with self._lock:
            self._active -= 1
            self._ended_s = self._clock.monotonic()
            # The thread knows of the idle time to come, once it was woken for it.
            unaware = not self._armed and self._settings.idle_s is not None
            wakes = self._active == 0 and (self._pending is not None or unaware)
        if wakes:
            self._thread.wake()

    def _turn(self) -> float | None:
        """Clean up if it is time; when to look again."""
        try:
            trigger, due_s = self._due()
            while trigger is not None:
                self._clean(trigger, whole=trigger in ("idle", "unload"))
                trigger, due_s = self._due()
        except BaseException:
            with self._lock:
                self._armed = False  # so that the next call wakes it
            raise
        return due_s

    def _due(self) -> tuple[str | None, float | None]:
        """What to clean up for now, and else when to look again."""
        now_s = self._clock.monotonic()
        settings = self._settings
        with self._lock:
            trigger: str | None = None
            due_s: float | None = None
            if self._pending is not None:
                trigger, since_s = self._pending
                if self._active and now_s < since_s + settings.patience_s:
                    trigger, due_s = None, since_s + settings.patience_s
            elif self._since and settings.idle_s is not None:
                last_s = now_s if self._active else self._ended_s
                due_s = max(last_s + settings.idle_s, self._cleaned_s + settings.least_interval_s)
                trigger = "idle" if now_s >= due_s and not self._active else None
            self._armed = due_s is not None
            return trigger, due_s

    # --- cleaning up ------------------------------------------------------------------------------------------------

    def _clean(self, trigger: str, *, whole: bool) -> MemoryRecovered:
        with self._cleaning:
            with self._lock:
                self._pending = None
                self._since = 0
            began_s = self._clock.monotonic()
            before = self._held()
            self._adapt(trigger, before)
            errors = self._take_steps(trigger, whole=whole)
            after = self._held()
            ended_s = self._clock.monotonic()
            made = MemoryRecovered(
                trigger, before, after, ended_s - began_s, not errors, "; ".join(errors), at=self._clock.now()
            )
            growth = self._growth() or 0
            with self._lock:
                self._cleaned_s = ended_s
                self._left_growth = growth
                self._last = made
                self._recoveries += 1
                self._failed += bool(errors)
                self._freed_bytes += max(before - after, 0)
        _log.debug("recovered %d bytes in %.4f s (%s)", before - after, made.seconds, trigger)
        self._publish(made)
        return made

    def _take_steps(self, trigger: str, *, whole: bool) -> list[str]:
        """Collect, hooks, trim: each is tried whatever became of the others. What went wrong, in words."""
        steps: list[tuple[str, Callable[[], object]]] = [
            ("collecting garbage", lambda: self._collect_garbage(by_hand=trigger == "hand", whole=whole)),
            *self._hooks.values(),
            ("trimming the allocator", lambda: self._trimmer.run(at_once=True, whatever=whole)),
        ]
        errors = []
        for name, act in steps:
            try:
                act()
            except Exception as error:  # noqa: BLE001 -- hooks may raise anything; it is recorded
                _log.exception("%s failed in a clean-up", name)
                errors.append(f"{name}: {type(error).__name__}: {error}")
        return errors

    def _collect_garbage(self, *, by_hand: bool, whole: bool) -> None:
        blocks = sys.getallocatedblocks()
        if not by_hand and (not whole or self._block_s * blocks > _MOST_COLLECT_S):
            self._collect(1)
            # One slow measurement, on a busy machine, must not count for ever.
            self._block_s *= _FORGOTTEN if whole else 1.0
            return
        began_s = self._clock.monotonic()
        self._collect(2)
        self._block_s = (self._clock.monotonic() - began_s) / max(blocks, 1)

    def _adapt(self, trigger: str, before: int) -> None:
        """More frequent where growth calls; rarer where the last one brought nothing, or what was taken again since."""
        last = self._last
        growth = self._growth() or 0
        if not self._settings.adaptive:
            return
        freed = 0 if last is None else last.before_bytes - last.after_bytes
        lasting = last is not None and freed >= self._least_bytes and before <= last.before_bytes - freed // 2
        with self._lock:
            if trigger == "growth" and self._rose(growth):
                self._rarity = max(min(self._rarity, 1.0) / 2, _MOST_FREQUENT)
            elif last is None or last.trigger not in ("calls", "growth"):
                return
            elif not lasting:
                self._rarity = min(self._rarity * 2, _RAREST)
            elif self._rarity > 1:
                self._rarity /= 2

    # --- measuring --------------------------------------------------------------------------------------------------

    def _held(self) -> int:
        """The process tree; 0 where the kernel tells only a peak, which never falls."""
        reading = self._meter.read()
        return 0 if reading.source == "peak" else reading.tree_bytes

    def _growth(self) -> int | None:
        """Above the floor, beside what consumers hold."""
        floor = self._floor
        held = None if floor is None else self._read()
        return None if floor is None or held is None else held - self._managed_bytes() - floor

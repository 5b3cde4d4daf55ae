"""The monitor: looks at memory about once a second in a thread of its own, moves the ladder, and tells what it saw.

More often when pressure is close to the next rung or rises towards it, less often when it is calm (`pace`). Each look
is a `check` of the governor and one `MemorySampled`. The processor time of the thread is measured and reported with it:
some 2 ms a look for a tree of three processes, the ladder's own work (garbage collection, trimming) aside.

Does not decide what is done about memory: the governor does. Does not keep what it saw: events go to whoever listens.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from embank.events.kinds import Event, MemorySampled
from embank.memory.pace import Pace
from embank.memory.snapshot import MonitorState
from embank.system.background import Background
from embank.system.clock import Clock, Stopwatch, SystemClock

if TYPE_CHECKING:
    from embank.memory.governor import Governor
    from embank.memory.settings import Settings


class Monitor:
    """See the module. Thread-safe. `start` begins, `close` ends; in a child after a fork it begins anew by itself.

    `cpu_s` tells the processor time of the calling thread.
    """

    def __init__(
        self,
        governor: Governor,
        *,
        settings: Settings | None = None,
        publish: Callable[[Event], object] = lambda _: None,
        clock: Clock | None = None,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        if settings is None:
            from embank.memory.settings import Settings  # pydantic, which a bare governor's importer may never need

            settings = Settings()
        self._governor = governor
        self._settings = settings
        self._publish = publish
        self._clock = clock or SystemClock()
        self._cpu_s = cpu_s
        self._begin()
        _monitors.add(self)

    def start(self) -> None:
        """Begin; does nothing where it has begun."""
        self._started = True
        self._governor.watch_with(self.state)
        self._thread.wake()

    def look(self) -> None:
        """Take a sample soon, without waiting for the next."""
        if self._started:
            self._thread.wake()

    def close(self) -> None:
        """End the thread, after the look under way. May be repeated."""
        self._started = False
        self._thread.close()
        self._governor.watch_with(None)

    def state(self) -> MonitorState:
        """What it did so far, and what that cost."""
        with self._lock:
            ran_s = None if self._ran is None else self._ran.passed_s()
            return MonitorState(
                running=self._started and self._thread.running,
                samples=self._samples,
                interval_s=self._interval_s,
                cpu_s=self._spent_s,
                cpu_pct=None if not ran_s else 100 * self._spent_s / ran_s,
            )

    def renew(self) -> None:
        """Start over in the child after a fork: the thread stayed in the parent."""
        started = self._started
        self._begin()
        if started:
            self.start()

    def _begin(self) -> None:
        settings = self._settings
        self._pace = Pace(
            settings.sample_s,
            fastest_s=settings.sample_fastest_s,
            slowest_s=settings.sample_slowest_s,
            adaptive=settings.sample_adaptive,
        )
        self._thread = Background("embank-monitor", self._turn, clock=self._clock)
        self._lock = threading.Lock()
        self._started = False
        self._ran: Stopwatch | None = None
        self._interval_s = settings.sample_s
        self._samples = 0
        self._spent_s = 0.0

    def _turn(self) -> float | None:
        """One look; when the next is due."""
        began_s = self._cpu_s()
        with self._lock:
            self._ran = self._ran or Stopwatch(self._clock)
        self._governor.check(at_once=True)
        state = self._governor.snapshot()
        marks = [rung.enter for rung in state.rungs if not rung.active]
        interval_s = self._pace.next_s(state.pressure, mark=min(marks, default=None))
        cost_s = self._cpu_s() - began_s
        self._publish(
            MemorySampled(
                real_bytes=state.real_bytes,
                tree_bytes=state.tree_bytes,
                managed_bytes=state.managed_bytes,
                unmanaged_growth_bytes=state.unmanaged_growth_bytes,
                reserved_bytes=state.reserved_bytes,
                budget_bytes=state.budget_bytes,
                pressure=state.pressure,
                rung=state.rung,
                processes=state.process_bytes,
                consumers=state.consumers,
                stalled_pct=None if state.stall is None else state.stall.some10_pct,
                cost_s=cost_s,
                at=self._clock.now(),
            )
        )
        with self._lock:
            self._samples += 1
            self._interval_s = interval_s
            self._spent_s += self._cpu_s() - began_s
        # Of the clock as it is now: should it have been set back meanwhile, the pause is no longer for it.
        return self._clock.monotonic() + interval_s


# Every monitor of the process, for the one hook after a fork: hooks can't be unregistered, so one each would leak.
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _renew_after_fork() -> None:
    for monitor in list(_monitors):
        monitor.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)

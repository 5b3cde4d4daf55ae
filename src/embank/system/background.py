"""One daemon thread that works in turns and sleeps until the next is due.

What is due, and when, is the owner's affair: `turn` does it and answers when it wants to be called again. The owner's
clock says what time it is, so that a test moves the clock and wakes the thread instead of sleeping.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from embank.system.clock import Clock
from embank.system.log import get_logger

_log = get_logger(__name__)


class Background:
    """Calls `turn`, a bound method, in a daemon thread that the first `wake` starts. Thread-safe.

    `turn` answers the monotonic time of the next turn, or None: not before the next `wake`. One that raises is logged,
    and called again at the next `wake`. The owner is held weakly: when it is gone, the thread ends.
    """

    def __init__(self, name: str, turn: Callable[[], float | None], *, clock: Clock) -> None:
        self._name = name
        self._woken = threading.Event()
        woken = self._woken
        self._turn = weakref.WeakMethod(turn, lambda _: woken.set())
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def wake(self) -> None:
        """Have a turn soon. Costs a microsecond; does nothing after `close`."""
        self._woken.set()
        if self.running:
            return
        with self._lock:
            # Not alive also after a fork, which leaves threads behind.
            if not self._closed and not self.running:
                # The thread is given no reference to this object's owner, only the weak one.
                args = (self._turn, self._woken, self._clock, self._ended)
                self._thread = threading.Thread(target=_run, args=args, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread and wait for the turn under way; from within a turn, without waiting. May be repeated."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._woken.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _ended(self) -> bool:
        return self._closed


def _run(
    turn: weakref.WeakMethod[Callable[[], float | None]],
    woken: threading.Event,
    clock: Clock,
    ended: Callable[[], bool],
) -> None:
    due_s: float | None = None
    while True:
        woken.wait(None if due_s is None else max(due_s - clock.monotonic(), 0.0))
        # Before the turn: what happens during it may want another.
        woken.clear()
        call = turn()
        if ended() or call is None:
            return
        try:
            due_s = call()
        except Exception:  # noqa: BLE001 -- the thread goes on for what comes next
            _log.exception("a turn of the thread %s failed", threading.current_thread().name)
            due_s = None
        # While it sleeps it must not keep the owner alive.
        del call

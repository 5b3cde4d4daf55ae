"""Threads for work that blocks, so that the event loop never does: so many at once, so many waiting, then no more."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from embank.http.errors import Refusal
from embank.system.clock import Clock

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Workers:
    """To be used from one event loop. `busy` counts what is worked on and what waits.

    Where the first in the line has waited for `wait_s`, newcomers are refused as well: who comes later than can be
    served soon is better told at once, and the line is short again as soon as the load ends.
    """

    def __init__(self, threads: int, waiting: int, *, name: str, clock: Clock, wait_s: float = math.inf) -> None:
        self._most = threads + waiting
        self._clock = clock
        self._wait_s = wait_s
        self._line: deque[tuple[float, Future[Any]]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.busy = 0
        self.refused = 0

    async def run(self, work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        """What `work` returns, computed in a thread; `Refusal` (429) where too much waits already.

        Who stops waiting for it does not stop it: its place is taken until it ends. What had not begun does not begin.
        """
        self.check()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        context = contextvars.copy_context()
        begun = self._pool.submit(self._work, loop, answer, partial(context.run, partial(work, *args, **options)))
        self._line.append((self._clock.monotonic(), begun))
        self.busy += 1
        try:
            return await answer
        except asyncio.CancelledError:
            if begun.cancel():
                self.busy -= 1
            raise

    def _work(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[_T], work: Callable[[], _T]) -> None:
        """Do it in a thread, and wake the loop once: waking costs more than many an answer."""
        tell: Callable[[], None]
        try:
            tell = partial(answer.set_result, work())
        except BaseException as error:  # noqa: BLE001 -- whoever waits for the answer is told
            tell = partial(answer.set_exception, error)
        if not loop.is_closed():  # else nobody counts any more
            loop.call_soon_threadsafe(self._ended, answer, tell)

    def _ended(self, answer: asyncio.Future[_T], tell: Callable[[], None]) -> None:
        self.busy -= 1
        self._move_up()
        if not answer.done():  # else whoever waited went away
            tell()

    def check(self) -> None:
        """Raise what `run` would where it would refuse."""
        self._move_up()
        is_slow = bool(self._line) and self._clock.monotonic() - self._line[0][0] > self._wait_s
        if self.busy >= self._most or is_slow:
            self.refused += 1
            raise Refusal(429, "busy", "too much waits already: try again", retry_s=1)

    def _move_up(self) -> None:
        """Let those go whose turn has come."""
        while self._line and (self._line[0][1].running() or self._line[0][1].done()):
            self._line.popleft()

    def close(self) -> None:
        """Begin nothing further; wait for what is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

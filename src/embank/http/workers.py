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
        self.busy += 1
        context = contextvars.copy_context()
        try:
            future = self._pool.submit(context.run, partial(work, *args, **options))
        except BaseException:
            self.busy -= 1
            raise
        self._line.append((self._clock.monotonic(), future))
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _tell(loop, self._ended))
        return await asyncio.wrap_future(future)

    def check(self) -> None:
        """Raise what `run` would where it would refuse."""
        self._move_up()
        is_slow = bool(self._line) and self._clock.monotonic() - self._line[0][0] > self._wait_s
        if self.busy >= self._most or is_slow:
            self.refused += 1
            raise Refusal(429, "busy", "too much waits already: try again", retry_s=1)

    def _ended(self) -> None:
        self.busy -= 1
        self._move_up()

    def _move_up(self) -> None:
        """Let those go whose turn has come."""
        while self._line and (self._line[0][1].running() or self._line[0][1].done()):
            self._line.popleft()

    def close(self) -> None:
        """Begin nothing further; wait for what is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Have the loop do it, unless it is over: then nobody counts any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)

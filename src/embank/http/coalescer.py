"""Small requests to embed that come in at the same time share batches: padding and calls are paid for once.

While no batch is under way, a request begins one at once: alone, nobody waits for company. Those that come in meanwhile
are gathered, and go together as soon as the batch ends or the first of them has waited `wait_s`, whichever is sooner;
so a request waits for company no longer than that. A text's vector does not depend on its neighbours (DESIGN law 6), so
sharing changes no answer. Where a shared batch fails, each request of it is tried alone, and only the guilty one fails.
What happens in a shared batch is told as happening in the first of its requests.

Two batches are under way at most: more would share the same processors, and all of them end later. So what is asked for
beyond what can be computed waits here, in a line that has an end: once its first has waited for `most_wait_s`, whoever
comes is refused at once (429). Those in the line are answered, and it is short again soon after the load has gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from embank.errors import EmbankError
from embank.http.errors import Refusal

_T = TypeVar("_T")

Compute = Callable[[list[str]], Awaitable[Sequence[_T]]]
"""Computes one answer for each text."""

_MOST_TEXTS = 128
"""Texts of one shared batch: more gain no speed, and whoever is in it waits for all of them."""

_AT_ONCE = 2
"""Batches under way: while one computes, the other's answers are written."""


@dataclass(slots=True)
class _Waiting(Generic[_T]):
    texts: list[str]
    since_s: float
    context: Context = field(default_factory=copy_context)
    answer: asyncio.Future[Sequence[_T]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Coalescer(Generic[_T]):
    """Of one model and one kind of text. To be used from one event loop. `batches` and `requests` count so far."""

    def __init__(self, compute: Compute[_T], *, wait_s: float, most_wait_s: float) -> None:
        self._compute = compute
        self._wait_s = wait_s
        self._most_wait_s = most_wait_s
        self._gathered: deque[_Waiting[_T]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.batches = 0
        self.requests = 0

    async def embed(self, texts: list[str]) -> Sequence[_T]:
        """One answer for each text, in their order. Raises what computing them alone would; `Refusal` (429)."""
        self.check()
        loop = asyncio.get_running_loop()
        self.requests += 1
        waiting = _Waiting[_T](texts, loop.time())
        self._gathered.append(waiting)
        if not self._under_way:
            self._begin()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._begin)
        return await waiting.answer

    def check(self) -> None:
        """Raise what `embed` would where the line is too long."""
        if self._waited_s() > self._most_wait_s:
            raise Refusal(429, "busy", "more texts wait to be embedded than soon can be: try again", retry_s=1)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._gathered and len(self._under_way) < _AT_ONCE:
            batch: list[_Waiting[_T]] = []
            count = 0
            while self._gathered and (not batch or count + len(self._gathered[0].texts) <= _MOST_TEXTS):
                waiting = self._gathered.popleft()
                if not waiting.answer.done():
                    batch.append(waiting)
                    count += len(waiting.texts)
            if batch:
                task = asyncio.get_running_loop().create_task(self._run(batch), context=batch[0].context)
                self._under_way.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not self._under_way or self._waited_s() >= self._wait_s:
            self._begin()

    def _waited_s(self) -> float:
        """How long the first in the line has waited; 0 where nobody waits."""
        while self._gathered and self._gathered[0].answer.done():  # whoever asked went away
            self._gathered.popleft()
        return asyncio.get_running_loop().time() - self._gathered[0].since_s if self._gathered else 0.0

    async def _run(self, batch: list[_Waiting[_T]]) -> None:
        try:
            answers = await self._computed([text for waiting in batch for text in waiting.texts])
        except EmbankError as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for waiting in batch:
                await self._run([waiting])
        except BaseException as error:
            for waiting in batch:
                _fail(waiting, error)
            if not isinstance(error, Exception):
                raise
        else:
            start = 0
            for waiting in batch:
                stop = start + len(waiting.texts)
                if not waiting.answer.done():
                    waiting.answer.set_result(answers[start:stop])
                start = stop

    async def _computed(self, texts: list[str]) -> Sequence[_T]:
        self.batches += 1
        return await self._compute(texts)


def _fail(waiting: _Waiting[_T], error: BaseException) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)

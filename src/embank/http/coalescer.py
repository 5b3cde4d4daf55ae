"""Small requests to embed that come in at the same time share batches: padding and calls are paid for once.

While no batch is under way, a request begins one at once: alone, nobody waits for company. Those that come in meanwhile
are gathered, and go together as soon as the batch ends or the first of them has waited `wait_s`, whichever is sooner;
so a request waits for company no longer than that. A text's vector does not depend on its neighbours (DESIGN law 6), so
sharing changes no answer. Where a shared batch fails, each request of it is tried alone, and only the guilty one fails.
What happens in a shared batch is told as happening in the first of its requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from embank.errors import EmbankError

_T = TypeVar("_T")

Compute = Callable[[list[str]], Awaitable[Sequence[_T]]]
"""Computes one answer for each text."""

_MOST_TEXTS = 1_024
"""Texts of one shared batch: more than a model's own windows have would only be waited for."""


@dataclass(slots=True)
class _Waiting(Generic[_T]):
    texts: list[str]
    context: Context = field(default_factory=copy_context)
    answer: asyncio.Future[Sequence[_T]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Coalescer(Generic[_T]):
    """Of one model and one kind of text. To be used from one event loop. `batches` and `requests` count so far."""

    def __init__(self, compute: Compute[_T], *, wait_s: float) -> None:
        self._compute = compute
        self._wait_s = wait_s
        self._gathered: list[_Waiting[_T]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.batches = 0
        self.requests = 0

    async def embed(self, texts: list[str]) -> Sequence[_T]:
        """One answer for each text, in their order. Raises what computing them alone would."""
        self.requests += 1
        waiting = _Waiting[_T](texts)
        self._gathered.append(waiting)
        if not self._under_way:
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._begin)
        return await waiting.answer

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._gathered:
            batch: list[_Waiting[_T]] = []
            count = 0
            while self._gathered and (not batch or count + len(self._gathered[0].texts) <= _MOST_TEXTS):
                waiting = self._gathered.pop(0)
                if not waiting.answer.done():  # whoever asked went away
                    batch.append(waiting)
                    count += len(waiting.texts)
            if batch:
                task = asyncio.get_running_loop().create_task(self._run(batch), context=batch[0].context)
                self._under_way.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not self._under_way:
            self._begin()

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

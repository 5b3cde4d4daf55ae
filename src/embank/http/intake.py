"""The body of one request as it comes in: counted, within its limit and its time, its memory asked for beforehand."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message, Receive, Scope

from embank.errors import BudgetExceeded
from embank.http.admission import Admission
from embank.http.errors import RETRY_S, Refusal, status_of

_COPIES = 4
"""What a body takes at most while it is read: its bytes, their text, the values in it, and these once more, checked."""
_BASE_BYTES = 64 << 10
"""What any request takes."""


class Intake:
    """Made for each request; `receive` stands in for the server's. `received_bytes` of the body came in so far."""

    def __init__(
        self, scope: Scope, receive: Receive, admission: Admission, *, limit_bytes: int, wait_s: float
    ) -> None:
        self._receive = receive
        self._admission = admission
        self._limit_bytes = limit_bytes
        self._wait_s = wait_s
        self._until_s: float | None = None
        self._announced_bytes = _announced(scope)
        self._taken_bytes = 0
        self._streams = False
        self._complete = False
        self.received_bytes = 0
        self.gone = False
        """Whether the caller went away."""

    async def admit(self) -> None:
        """Ask for what any request takes. Raises `Refusal` (429)."""
        await self._take(_BASE_BYTES)

    def streams(self, limit_bytes: int) -> None:
        """The body is passed on piece by piece: it is not held in memory, and may be longer."""
        self._limit_bytes, self._streams = limit_bytes, True

    async def receive(self) -> Message:
        """The next message. Raises `Refusal`: 413, 408, and 429 where there is no memory for it."""
        if self._complete:
            return self._seen(await self._receive())
        loop = asyncio.get_running_loop()
        if self._until_s is None:
            self._until_s = loop.time() + self._wait_s
            await self._expect(self._announced_bytes)
        try:
            async with asyncio.timeout_at(self._until_s):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, "body_too_slow", f"the body did not come in within {self._wait_s:g} s") from None
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._streams:  # a body that goes on coming in is not slow, however long it is
                self._until_s = loop.time() + self._wait_s
            await self._expect(self.received_bytes)
        return self._seen(message)

    def end(self) -> None:
        """Give back what was taken."""
        self._admission.give(self._taken_bytes)
        self._taken_bytes = 0

    def _seen(self, message: Message) -> Message:
        self.gone = self.gone or message["type"] == "http.disconnect"
        return message

    async def _expect(self, body_bytes: int) -> None:
        if body_bytes > self._limit_bytes:
            raise Refusal(
                413, "too_large", f"the body has more than {self._limit_bytes} bytes, the most that are taken"
            )
        if not self._streams:
            wanted_bytes = _BASE_BYTES + _COPIES * body_bytes
            if wanted_bytes > self._taken_bytes:
                await self._take(wanted_bytes - self._taken_bytes)

    async def _take(self, count: int) -> None:
        try:
            await self._admission.take(count)
        except BudgetExceeded as error:  # others don't get through from within the reading of a body
            raise Refusal(status_of(error), "budget_exceeded", error.message, retry_s=RETRY_S) from error
        self._taken_bytes += count


def _announced(scope: Scope) -> int:
    headers: Any = scope["headers"]
    text = next((value for name, value in headers if name == b"content-length"), b"0")
    return int(text) if text.isdigit() else 0

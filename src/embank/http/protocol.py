"""HTTP/1.1 connections with bounds that the server's own lack: how many, and how long until a request has begun.

A connection that sends nothing, or its headers a byte a minute, is closed; so are connections beyond the number that is
allowed. The parser is h11, which bounds the bytes of a request's line and headers. Bodies are `intake`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from embank.http.settings import Settings


class BoundedProtocol(H11Protocol):
    """Made by `bounded`, for its settings."""

    header_wait_s: ClassVar[float]
    most: ClassVar[int]

    _begin_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Let the time run while a request is awaited, and only then. Bytes that come in do not set it back."""
        cycle: Any = self.cycle  # none before the first request, whatever its annotation says
        is_busy = cycle is not None and not cycle.response_complete
        if is_busy or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            self._unwatch()
        elif self._begin_timer is None:
            self._begin_timer = self.loop.call_later(self.header_wait_s, self.transport.abort)

    def _unwatch(self) -> None:
        if self._begin_timer is not None:
            self._begin_timer.cancel()
            self._begin_timer = None


def bounded(settings: Settings) -> type[BoundedProtocol]:
    """The protocol with the bounds of `settings`."""
    return type(
        "BoundedProtocol",
        (BoundedProtocol,),
        {"header_wait_s": settings.header_wait_s, "most": settings.connections},
    )

"""HTTP/1.1 connections within bounds: how many, how long until a request begins, how much is held before it is read.

A connection that sends nothing, or its headers a byte a minute, is closed; so are connections beyond the number that is
allowed. The parser is llhttp, which has no bounds: so it is fed in small pieces, what it has not made sense of yet is
counted, and requests that wait for the one before them are not parsed. Bodies are `intake`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from embank.http.errors import Refusal, encoded, told

if TYPE_CHECKING:
    from embank.http.settings import Settings

_PIECE_BYTES = 4 << 10
"""So much is parsed at once: the requests of one piece that was pipelined are held, however small each is."""


class BoundedProtocol(HttpToolsProtocol):
    """Made by `bounded`, for its settings."""

    header_bytes: ClassVar[int]
    header_wait_s: ClassVar[float]
    most: ClassVar[int]

    _begin_timer: asyncio.TimerHandle | None = None
    _unread = b""
    """Came in, and waits until earlier requests are answered."""
    _unknown_bytes = 0
    """Parsed since the parser last made sense of anything."""
    _in_head = False
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._read(self._unread + data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._unread and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._read(self._unread)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._unread = b""
        super().connection_lost(exc)

    # --- what the parser tells -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a field behind the body must not pass for one that was checked before it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unknown_bytes = 0
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise ValueError("a request names one Host")  # RFC 9112, 3.2; the parser makes it its own error
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._unknown_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._unknown_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unknown_bytes = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    # --- bounds --------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Parse until a request has to wait for the one before it; keep the rest."""
        view, start = memoryview(data), 0
        while start < len(data) and not (self.pipeline or self._refused):
            start += self._parse(view[start : start + _PIECE_BYTES])
        self._unread = b"" if self._refused else data[start:]
        if self._unread:
            self.flow.pause_reading()

    def _parse(self, piece: memoryview) -> int:
        """Parse a piece, and tell how many of its bytes are done with."""
        self._unknown_bytes += len(piece)
        try:
            done = self._feed(piece)
        except httptools.HttpParserError:
            self._refuse(Refusal(400, "bad_request", "this is no request of HTTP/1.1"))
            return len(piece)
        if self._unknown_bytes > self.header_bytes:
            self._refuse(
                Refusal(431, "headers_too_large", f"line and headers have more than {self.header_bytes} bytes")
            )
        return done

    def _feed(self, piece: memoryview) -> int:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:  # to nothing that is spoken here
            self.parser.feed_data(self._head_without_offer())  # since the parser left its body out
            return int(upgrade.args[0])
        return len(piece)

    def _head_without_offer(self) -> bytes:
        """The request that offered another protocol, such as HTTP/2, once more."""
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([line, *fields, b"", b""])

    def _refuse(self, refusal: Refusal) -> None:
        """End the connection at what can't be read. What was asked before is answered first."""
        self._refused = True
        last: Any = self.cycle
        if last is None or last.response_complete:
            self._tell(refusal)
        elif not last.more_body:
            last.keep_alive = False
        elif last.response_started or self.pipeline:  # it is the body of this very request that can't be read
            self.transport.abort()
        else:
            self._tell(refusal)

    def _tell(self, refusal: Refusal) -> None:
        status, answer, _ = told(refusal, None)
        body = encoded(answer)
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

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
        {
            "header_bytes": settings.header_limit.resolve(1 << 20),
            "header_wait_s": settings.header_wait_s,
            "most": settings.connections,
        },
    )

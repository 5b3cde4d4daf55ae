"""The gate that every request passes, outside of everything else: its id, its time, its memory, and its end on record.

Covers what holds for all routes: a request id in answer, event and log; draining; admission by memory; the time limit;
and that whatever was raised inside is answered in the one shape, without a traceback. Who may do what is `security`'s.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embank.errors import EmbankError
from embank.events.event import within_request
from embank.events.kinds import RequestAnswered
from embank.http.errors import Refusal, encoded, told
from embank.http.intake import Intake
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.http.service import Service

_log = get_logger(__name__)

PROBES = frozenset({"/livez", "/readyz"})
"""What is answered in any case: also while draining, and while memory is short."""

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACE = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
GONE = 499


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Passage(self._app, self.service, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1003})


class _Passage:
    """One request's way through the gate."""

    def __init__(self, app: ASGIApp, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._service = service
        self._scope = scope
        self._send_on = send
        self._id = _request_id(scope)
        settings = service.settings
        self._wait_s = settings.request_wait_s
        self._intake = Intake(
            scope,
            receive,
            service.admission,
            limit_bytes=settings.body_limit.resolve(service.governor.budget_bytes),
            wait_s=settings.body_wait_s,
        )
        state = scope.setdefault("state", {})
        state["request_id"], state["intake"] = self._id, self._intake
        self._status = 0
        self._answered = False
        self._deadline: asyncio.Timeout | None = None

    async def run(self) -> None:
        with within_request(self._id):
            await self._timed()

    async def _timed(self) -> None:
        clock = self._service.clock
        started_s = clock.monotonic()
        self._service.requests += 1
        try:
            await self._pass()
        finally:
            self._service.requests -= 1
            self._intake.end()
            self._record(clock.monotonic() - started_s)

    async def _pass(self) -> None:
        try:
            if self._scope["path"] not in PROBES:
                await self._admit()
            async with asyncio.timeout(self._wait_s) as self._deadline:
                await self._app(self._scope, self._intake.receive, self._send)
        except TimeoutError:
            await self._refuse(
                Refusal(504, "too_slow", f"there was no answer within {self._wait_s:g} s; what was begun may go on")
            )
        except (EmbankError, Refusal) as error:
            await self._refuse(error)
        except Exception as error:  # noqa: BLE001 -- the last place where a caller can be told anything
            _log.exception(
                "request %s failed: %s %s", self._id, self._scope["method"], _route(self._scope), extra=self._extra()
            )
            await self._refuse(error)

    async def _admit(self) -> None:
        if self._service.draining:
            raise Refusal(503, "draining", "the service is being stopped: it takes no new work", retry_s=5)
        names = [name for name, _ in self._scope["headers"]]
        if b"transfer-encoding" in names and b"content-length" in names:  # a way to hide one request in another
            raise Refusal(
                400, "ambiguous_length", "a body has either a Content-Length or a Transfer-Encoding", ends=True
            )
        await self._intake.admit()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._id.encode())]
            if self._service.draining:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
            if self._deadline is not None:  # the answer has as long again to be fetched; a stream ends by itself
                is_stream = any(value.startswith(b"text/event-stream") for _, value in headers)
                self._deadline.reschedule(None if is_stream else asyncio.get_running_loop().time() + self._wait_s)
        await self._send_on(message)
        self._answered = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def _refuse(self, error: BaseException) -> None:
        self._deadline = None  # it is over
        if self._status:
            if not self._answered and not self._intake.gone:
                raise error  # too late to say anything: the connection ends in the middle, so that nobody is deceived
            return
        status, answer, headers = told(error, self._id)
        body = encoded(answer)
        listed = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        listed += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": listed})
        await self._send({"type": "http.response.body", "body": body})

    def _record(self, seconds: float) -> None:
        key = self._scope["state"].get("key")
        status = GONE if self._intake.gone and not self._status else self._status or 500
        method = self._scope["method"]
        event = RequestAnswered(
            method=method if method in _METHODS else "other",
            route=_route(self._scope),
            status=status,
            seconds=seconds,
            request_id=self._id,
            received_bytes=self._intake.received_bytes,
            key=None if key is None else key.id,
            traceparent=_traceparent(self._scope),
        )
        self._service.metrics.observe(event)  # here, since the stream may drop it
        self._service.stream.publish(event)
        _log.info(
            "%s %s %d in %.1f ms, request %s",
            event.method,
            event.route,
            status,
            seconds * 1e3,
            self._id,
            extra=self._extra(status=status, seconds=seconds, key=event.key),
        )

    def _extra(self, **more: Any) -> dict[str, Any]:
        return {"request_id": self._id, "method": self._scope["method"], "route": _route(self._scope), **more}


def _request_id(scope: Scope) -> str:
    """The caller's own id where it is a plain one, else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)


def _traceparent(scope: Scope) -> str | None:
    given = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
    return given.decode() if _TRACE.fullmatch(given) else None


def _route(scope: Scope) -> str:
    """The path with its names left open; nothing that a caller wrote."""
    route = scope["state"].get("route")
    return str(route) if route else "unmatched"

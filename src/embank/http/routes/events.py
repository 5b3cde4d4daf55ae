"""Events as they happen, as server-sent events: a bounded queue for each listener, and what it lost is told to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from embank.events import kinds as known
from embank.events.event import Event
from embank.http.errors import Refusal
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service

router = APIRouter(tags=["events"], route_class=ScopedRoute)

_TURN_S = 0.1
_QUIET_S = 15.0


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    openapi_extra=needs("admin"),
)
async def events(request: Request, kind: Annotated[list[str] | None, Query()] = None) -> StreamingResponse:
    """What happens in the bank, from now on, all of it or some kinds, until either side ends it."""
    service: Service = request.app.state.service
    wanted = [_kind(name) for name in kind or ()] or None
    if service.listeners >= service.settings.listeners:
        raise Refusal(429, "too_many_listeners", f"{service.listeners} listen already (http.listeners)", retry_s=30)
    service.listeners += 1
    return StreamingResponse(
        _lines(service, wanted), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def _lines(service: Service, kinds: list[type[Event]] | None) -> AsyncIterator[str]:
    try:
        with service.stream.subscribe(kinds=kinds, capacity=service.settings.events_kept) as subscription:
            yield ": listening\n\n"
            quiet_s, lost = 0.0, 0
            while not service.draining and not subscription.closed:
                happened = subscription.drain()
                if subscription.dropped > lost:
                    lost = subscription.dropped
                    yield f"event: dropped\ndata: {json.dumps({'dropped': lost})}\n\n"
                for event in happened:
                    data = json.dumps({"kind": event.kind, **asdict(event)}, default=str)
                    yield f"event: {event.kind}\ndata: {data}\n\n"
                quiet_s = 0.0 if happened else quiet_s + _TURN_S
                if quiet_s >= _QUIET_S:  # so that a connection that is gone is noticed
                    quiet_s = 0.0
                    yield ": nothing new\n\n"
                await asyncio.sleep(_TURN_S)
    finally:
        service.listeners -= 1


def _kind(name: str) -> type[Event]:
    found = getattr(known, name, None) if name in known.__all__ else None
    if found is None:
        raise Refusal(400, "invalid_request", f"kind: there are no events {name[:100]!r}", param="kind")
    kind: type[Event] = found
    return kind

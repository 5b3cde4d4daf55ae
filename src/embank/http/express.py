"""The short way for what is asked most, embeddings and searches: past the framework, which costs more than a search.

A request that is in order is checked by the same types and answered by the same functions as on its route, in the
thread that computes it. Any other, one with a fault in its body or of another content type, goes the whole way, with
its body as it came in: so faults are told in one place, and the framework's documents stay true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embank.client.openai import EmbeddingsAsked
from embank.client.schemas import SearchAsked
from embank.http.routes.collections import LONGEST_NAME
from embank.http.routes.openai import embedded
from embank.http.routes.searching import searched

if TYPE_CHECKING:
    from embank.http.service import Service

_EMBEDDINGS = "/v1/embeddings"
_COLLECTION, _SEARCH = "/collections/", "/search"
_JSON = b"application/json"


class _Way(NamedTuple):
    route: str
    form: type[BaseModel]
    check: Callable[[], None]
    """Raises the `Refusal` of a server that has too much to do, before anything was done for the request."""
    answer: Callable[[Any], Awaitable[bytes]]


class Express:
    """An ASGI application around the framework's. Both ways ask for a key of scope `read`."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        self._framework = app
        self._app: ASGIApp = app
        self._service = service
        self._embeddings = _Way(
            _EMBEDDINGS, EmbeddingsAsked, service.embedding.check, lambda asked: embedded(service, asked)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._way(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if way is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._framework
        state = scope["state"]
        state["route"] = way.route
        state["key"] = self._service.guard.check(Request(scope), "read")
        way.check()
        body, ended = await _body(receive)
        if ended["type"] == "http.disconnect":  # nobody is there to be answered
            return
        try:
            asked = way.form.model_validate_json(body)
        except ValidationError:
            await self._app(scope, _again(body, receive), send)
            return
        answer = await way.answer(asked)
        headers = [(b"content-length", str(len(answer)).encode()), (b"content-type", _JSON)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _way(self, scope: Scope) -> _Way | None:
        """The short way of a request, where there is one."""
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if kind.partition(b";")[0].rstrip().lower() != _JSON:
            return None
        path: str = scope["path"]
        if path == _EMBEDDINGS:
            return self._embeddings
        if path.startswith(_COLLECTION) and path.endswith(_SEARCH):
            name = path[len(_COLLECTION) : -len(_SEARCH)]
            if "/" not in name and 1 <= len(name) <= LONGEST_NAME:
                service = self._service
                return _Way(
                    "/collections/{name}/search",
                    SearchAsked,
                    service.searches.check,
                    lambda asked: searched(service, name, asked),
                )
        return None


async def _body(receive: Receive) -> tuple[bytes, Message]:
    """The whole body, and the message that ended it."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts), message


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read once more, and then what follows it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed

"""The application: routes, the one shape of errors, and the gate around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from embank.bank import Bank
from embank.client.schemas import ErrorAnswer
from embank.errors import EmbankError
from embank.http.errors import encoded, told, unfit
from embank.http.express import Express
from embank.http.gate import Gate
from embank.http.routes import collections, documents, events, health, jobs, openai, searching, upkeep
from embank.http.service import Service
from embank.registry import import_path

_ABOUT = """Embeddings, documents and search over HTTP, inside a memory budget that holds.

`/v1/…` speaks as OpenAI's API does. Every answer from 400 on has the same shape. Errors 429 and 503 say in
`Retry-After` when to try again. Every answer has an `X-Request-Id`, the caller's own where it sent one.
"""


def make_app(bank: Bank) -> Gate:
    """The service of an open bank, which stays its caller's to close."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.get_running_loop().run_in_executor(None, service.warm)
        folding = asyncio.create_task(service.keep_folding())
        yield
        folding.cancel()
        await warming
        await service.close()

    service = Service(bank)
    app = FastAPI(
        title="Embank",
        version=str(import_path("embank:__version__")),
        description=_ABOUT,
        lifespan=life,
        docs_url=None,  # its page fetches scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # see routes/health.py: it asks for a key as all others do
        redirect_slashes=False,
        responses={400: {"model": ErrorAnswer, "description": "The request is wrong."}},
    )
    app.state.service = service
    for room in (openai, collections, documents, searching, upkeep, jobs, events, health):
        app.include_router(room.router)
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(EmbankError, _told)
    app.add_exception_handler(Exception, _told)  # raised on to the gate all the same, which logs it
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # the way that FastAPI names
    return Gate(Express(app, service), service)


async def _told(request: Request, error: Exception) -> Response:
    status, answer, headers = told(error, request.state.request_id)
    return Response(encoded(answer), status, headers, media_type="application/json")


async def _unfit(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise TypeError(type(error).__name__)
    status, answer, headers = unfit(error, request.state.request_id)
    return Response(encoded(answer), status, headers, media_type="application/json")


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        made.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}}
        for operations in made["paths"].values():
            for operation in operations.values():
                answers = operation["responses"]
                answers.pop("422", None)  # what does not fit is answered 400 here
                for status, meaning in _REFUSALS.items():
                    answers.setdefault(status, {"description": meaning, **error})
        app.openapi_schema = made
    return app.openapi_schema


_REFUSALS = {
    "400": "The request is wrong.",
    "401": "An API key is needed.",
    "403": "The key's scope does not reach so far, or the collection is protected.",
    "404": "There is no such thing.",
    "408": "The body came in too slowly.",
    "409": "It contradicts what is there.",
    "413": "The body is too large.",
    "421": "The Host header names another machine.",
    "429": "Too much is under way, or memory is short: try again.",
    "500": "An error of the server.",
    "503": "The service is being stopped, or its model can't be used.",
    "504": "There was no answer in time.",
    "507": "The server's disk is full.",
}

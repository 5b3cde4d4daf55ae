"""The typed client, sync and async: one list of methods, which both have, and two thin ways of sending.

    with Client("http://127.0.0.1:8080", key="emb_…") as bank:
        bank.upsert("notes", [{"id": "a1", "text": "Rivers carry silt."}])
        for hit in bank.search("notes", "what do rivers carry?", k=5).hits:
            print(hit.score, hit.id, hit.text)

    async with AsyncClient("http://127.0.0.1:8080") as bank:
        found = await bank.search("notes", "what do rivers carry?")

What the methods take stands in `embank.client.calls`; what they answer in `embank.client.schemas`. A server that is
busy, short of memory or restarting is asked again after the time that it names. Errors are `ServiceError`, with
`status`, `code` and `request_id` among their fields, and `ServiceUnreachable`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx2
from pydantic import BaseModel

from embank.client import calls, outcome
from embank.client.calls import Call
from embank.client.outcome import Retries

P = ParamSpec("P")
T = TypeVar("T", bound=BaseModel)

_TIMEOUT_S = 150.0


class Method(Generic[P, T]):
    """A method of both clients: it builds the call and has the client send it."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Awaitable[T]]: ...

    @overload
    def __get__(self, client: None, owner: type) -> Method[P, T]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def bound(*args: P.args, **options: P.kwargs) -> Any:
            return client.send(self._build(*args, **options))

        return bound


class Methods:
    """What both clients can do."""

    embed = Method(calls.embed)
    models = Method(calls.models)
    collections = Method(calls.collections)
    create = Method(calls.create)
    show = Method(calls.show)
    protect = Method(calls.protect)
    drop = Method(calls.drop)
    count = Method(calls.count)
    upsert = Method(calls.upsert)
    get = Method(calls.get)
    page = Method(calls.page)
    delete = Method(calls.delete)
    search = Method(calls.search)
    import_lines = Method(calls.import_lines)
    purge = Method(calls.purge)
    compact = Method(calls.compact)
    backup = Method(calls.backup)
    jobs = Method(calls.jobs)
    job = Method(calls.job)
    cancel = Method(calls.cancel)
    stats = Method(calls.stats)
    memory = Method(calls.memory)
    release = Method(calls.release)
    clear_cache = Method(calls.clear_cache)
    audit = Method(calls.audit)
    health = Method(calls.health)


class Client(Methods):
    """Blocks until there is an answer. Thread-safe. `sleep` is what waits between tries."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        retries: Retries | None = None,
        timeout_s: float = _TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._retries = retries or Retries()
        self._sleep = sleep
        self._http = httpx2.Client(headers=_headers(key), timeout=timeout_s)

    def send(self, call: Call[T]) -> T:
        """The answer to a call. Raises `ServiceError` and `ServiceUnreachable`."""
        tried = 0
        while True:
            tried += 1
            try:
                answer = self._http.request(**_request(self.url, call))
            except httpx2.TransportError as error:
                wait_s = outcome.pause_s(call, self._retries, tried, None, {})
                if wait_s is None:
                    raise outcome.unreachable(self.url, error) from error
            else:
                wait_s = outcome.pause_s(call, self._retries, tried, answer.status_code, answer.headers)
                if wait_s is None:
                    return outcome.value(call, answer.status_code, answer.content)
            self._sleep(wait_s)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Methods):
    """The same for async programs: every method is to be awaited. Of one event loop."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        retries: Retries | None = None,
        timeout_s: float = _TIMEOUT_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._retries = retries or Retries()
        self._sleep = sleep
        self._http = httpx2.AsyncClient(headers=_headers(key), timeout=timeout_s)

    async def send(self, call: Call[T]) -> T:
        """See `Client.send`."""
        tried = 0
        while True:
            tried += 1
            try:
                answer = await self._http.request(**_request(self.url, call))
            except httpx2.TransportError as error:
                wait_s = outcome.pause_s(call, self._retries, tried, None, {})
                if wait_s is None:
                    raise outcome.unreachable(self.url, error) from error
            else:
                wait_s = outcome.pause_s(call, self._retries, tried, answer.status_code, answer.headers)
                if wait_s is None:
                    return outcome.value(call, answer.status_code, answer.content)
            await self._sleep(wait_s)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def _request(url: str, call: Call[T]) -> dict[str, Any]:
    headers = {} if call.body is None else {"content-type": call.content_type}
    return {
        "method": call.method,
        "url": f"{url}{call.path}",
        "content": call.body,
        "params": call.params,
        "headers": headers,
    }

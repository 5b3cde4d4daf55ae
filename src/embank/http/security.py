"""Who may do what: the scope that each route asks for, checked before a byte of the body is read.

While a bank has no keys, whoever can reach the loopback address may do everything, except web pages of elsewhere: a
request must name the machine itself in its Host header and, where a browser tells it, in Origin, so that neither a
foreign page nor a foreign name that was made to point here gets in. As soon as there is a key, a key is needed.
Commands of the server's own user on this machine show the secret of its start instead (`embank.client.local`).
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from embank.client.local import is_token
from embank.client.schemas import Scope
from embank.errors import InvalidInput
from embank.events.kinds import KeysChanged
from embank.http.errors import Refusal
from embank.http.keys import Key, KeyBook, changes
from embank.store.audit import acting

if TYPE_CHECKING:
    from pathlib import Path

    from embank.http.service import Service
    from embank.http.settings import Settings

COMMAND = Key("command", "commands of the server's own user on this machine", "admin", sha256="", created=0.0)
"""What stands for the key of a request that showed the secret of the server's start."""

Needs = Scope | Literal["nothing"]
_MARK = "x-embank-scope"


def needs(scope: Needs) -> dict[str, Any]:
    """What a route says of the scope that it asks for: `@router.get("/x", openapi_extra=needs("read"))`."""
    return {_MARK: scope} if scope == "nothing" else {_MARK: scope, "security": [{"key": []}]}


class ScopedRoute(APIRoute):
    """A route that says which scope it asks for; one that says nothing can't be made."""

    @property
    def scope(self) -> Needs:
        scope: Needs = (self.openapi_extra or {})[_MARK]
        return scope

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, which begins with the check and ends, where an admin did something, with an entry on record.

        What is done to the bank meanwhile, also by a job that it starts, is on record as done for the key.
        """
        handle = super().get_route_handler()
        scope, route = self.scope, self.path_format
        known = {field.alias for field in self.dependant.query_params}

        async def checked(request: Request) -> Response:
            request.state.route = route
            service: Service = request.app.state.service
            key = None if scope == "nothing" else service.guard.check(request, scope)
            request.state.key = key
            if scope != "nothing":
                _refuse_unknown(request, known)
            with acting(**_actor(key), request_id=request.state.request_id):
                response = await handle(request)
                if scope == "admin" and request.method != "GET" and response.status_code < 400:
                    asked = f"{request.method} {request.url.path}"
                    await run_in_threadpool(service.on_record, "admin", request=asked)
            return response

        return checked


class Guard:
    """Checks requests against the keys of a bank."""

    def __init__(self, book: KeyBook, settings: Settings, *, secret: str) -> None:
        self._book = book
        self._secret = secret
        self._hosts = {"localhost", settings.host.lower(), *(host.lower() for host in settings.hosts)}
        self._is_local = is_loopback(settings.host)
        self._known = book.in_force()

    @property
    def keys(self) -> int:
        return len(self._known)

    def check(self, request: Request, scope: Scope) -> Key | None:
        """The key that a request shows; `None` where none is asked for. Raises `Refusal`."""
        in_force = self._book.in_force()
        if in_force != self._known:
            self._changed(request, in_force)
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if is_token(token.strip(), self._secret) and request.client is not None and is_loopback(request.client.host):
            return COMMAND
        if not in_force and self._is_local:
            self._check_place(request)
            return None
        if kind.lower() != "bearer" or not token:
            raise Refusal(401, "key_missing", "an API key is needed: send it as `Authorization: Bearer emb_…`")
        key = self._book.find(token.strip())
        if key is None:
            raise Refusal(401, "key_invalid", "this API key is unknown or was revoked")
        if not key.allows(scope):
            raise Refusal(403, "scope_missing", f"this needs a key of scope {scope}, this one has {key.scope}")
        return key

    def _check_place(self, request: Request) -> None:
        host = _hostname(f"//{request.headers.get('host', '')}")
        origin = request.headers.get("origin")
        if not self._is_here(host):
            raise Refusal(421, "foreign_host", "without API keys only loopback names are answered (see http.hosts)")
        if origin is not None and not self._is_here(_hostname(origin)):
            raise Refusal(403, "foreign_origin", "without API keys pages of other sites may not ask anything")

    def _is_here(self, host: str) -> bool:
        return host in self._hosts or is_loopback(host)

    def _changed(self, request: Request, in_force: list[Key]) -> None:
        added, revoked = changes(self._known, in_force)
        self._known = in_force
        service: Service = request.app.state.service
        service.stream.publish(KeysChanged(keys=len(in_force), added=len(added), revoked=len(revoked)))
        named = {"added": [key.id for key in added], "revoked": [key.id for key in revoked]}
        service.later(service.on_record, "keys", **named)


def book_of(bank: Path, settings: Settings) -> KeyBook:
    """The keys that open a bank's service: its own, and the one of the settings."""
    given = settings.admin_key
    return KeyBook(bank, admin_key=None if given is None else given.get_secret_value())


def check_place(settings: Settings, book: KeyBook) -> None:
    """Raise `InvalidInput` where the settings would open the bank to others without a key, or TLS can't be spoken."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidInput("http.tls_cert and http.tls_key go together: give both, or neither")
    if settings.tls_cert is not None:
        try:  # without a password for the key: nobody is there to be asked
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                settings.tls_cert, settings.tls_key, password=""
            )
        except OSError as error:  # those of ssl, too
            raise InvalidInput(
                f"http.tls_cert {settings.tls_cert} and http.tls_key {settings.tls_key} can't be used: {error}"
            ) from error
    if not is_loopback(settings.host) and not book.in_force():
        raise InvalidInput(
            f"listening on {settings.host} lets others in, and there is no API key yet: make one with "
            f"`embank keys add NAME --scope write`, set http.admin_key, or listen on 127.0.0.1",
            host=settings.host,
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _refuse_unknown(request: Request, known: set[str]) -> None:
    """As fields of a body are: `?dryrun=1` must not do what `?dry_run=1` would only have told."""
    for name in request.query_params:
        if name not in known:
            few = f"there is {', '.join(sorted(known))}" if known else "it takes none"
            raise Refusal(400, "invalid_request", f"the query has no parameter {name[:100]!r}: {few}", param=name[:100])


def _actor(key: Key | None) -> dict[str, str]:
    return {"key": "loopback"} if key is None else {"key": key.id, "name": key.name}


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""

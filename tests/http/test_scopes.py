"""Every route, each with the scope that it is to ask for: a key of a narrower one, or none, opens it not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.serving import serving

from embank.bank import open_bank
from embank.http.keys import KeyBook
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from tests.http.serving import Served

    from embank.client.schemas import Scope

NARROWER = {"nothing": 0, "read": 1, "write": 2, "admin": 3}
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")

# Written by hand: what the routes say of themselves is what is to be found wrong here.
TABLE = {
    "GET /livez": "nothing",
    "GET /readyz": "nothing",
    "GET /healthz": "read",
    "GET /metrics": "read",
    "GET /proof": "nothing",
    "GET /openapi.json": "read",
    "GET /events": "admin",
    "POST /v1/embeddings": "read",
    "GET /v1/models": "read",
    "GET /v1/models/{model}": "read",
    "GET /collections": "read",
    "POST /collections": "write",
    "GET /collections/{name}": "read",
    "PATCH /collections/{name}": "admin",
    "DELETE /collections/{name}": "admin",
    "GET /collections/{name}/count": "read",
    "POST /collections/{name}/count": "read",
    "GET /stats": "read",
    "POST /collections/{name}/documents": "write",
    "POST /collections/{name}/documents/get": "read",
    "POST /collections/{name}/documents/list": "read",
    "POST /collections/{name}/documents/delete": "write",
    "POST /collections/{name}/imports": "write",
    "POST /collections/{name}/index": "write",
    "GET /collections/{name}/documents/{id}": "read",
    "POST /collections/{name}/search": "read",
    "POST /collections/{name}/purge": "admin",
    "POST /collections/{name}/compact": "admin",
    "POST /backup": "admin",
    "GET /memory": "read",
    "POST /memory/release": "admin",
    "POST /memory/warm": "admin",
    "GET /cache": "read",
    "POST /cache/clear": "admin",
    "GET /audit": "admin",
    "GET /jobs": "read",
    "GET /jobs/{id}": "read",
    "POST /jobs/{id}/cancel": "write",
}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, dict[str, str]]]:
    """A server with a key of each scope, and one that was revoked."""
    path = tmp_path_factory.mktemp("scoped") / "a.bank"
    open_bank(path, model=HashModel()).close()
    book = KeyBook(path)
    tokens: dict[str, str] = {scope: book.add(scope, scope, now=1.0)[1] for scope in SCOPES}
    key, tokens["revoked"] = book.add("revoked", "admin", now=1.0)
    book.revoke(key.id, now=2.0)
    with serving(path) as running:
        yield running, tokens


def test_the_table_has_every_route(keyed: tuple[Served, dict[str, str]]) -> None:
    served, tokens = keyed
    app: Any = served.server.config.app._app._framework  # type: ignore[union-attr]  # also what the description leaves out
    routes = {f"{method} {route.path_format}" for route in _routes(app.routes) for method in route.methods - {"HEAD"}}
    assert routes == set(TABLE)
    described = served.http.get("/openapi.json", headers=_shown(tokens["read"])).json()["paths"]
    for route, scope in TABLE.items():
        method, _, path = route.partition(" ")
        assert described[path][method.lower()]["x-embank-scope"] == scope, route


@pytest.mark.parametrize("route", TABLE)
def test_a_key_of_the_wrong_scope_opens_nothing(keyed: tuple[Served, dict[str, str]], route: str) -> None:
    served, tokens = keyed
    method, _, path = route.partition(" ")
    where = path.replace("{name}", "nowhere").replace("{id}", "none").replace("{model}", "none")
    for given, rank in NARROWER.items():
        if path == "/events" and given == "admin":
            continue  # it would go on for ever
        status = served.http.request(method, where, headers=_shown(tokens.get(given))).status_code
        if rank >= NARROWER[TABLE[route]]:
            assert status not in (401, 403), given
        else:
            assert status == (401 if given == "nothing" else 403), given
    if TABLE[route] != "nothing":
        assert served.http.request(method, where, headers=_shown(tokens["revoked"])).status_code == 401


def _routes(listed: Any) -> list[Any]:
    """All routes: newer versions of FastAPI keep those of a router that was included behind one entry."""
    found = []
    for each in listed:
        if hasattr(each, "path_format"):
            found.append(each)
        else:
            found += _routes(each.original_router.routes)
    return found


def _shown(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}

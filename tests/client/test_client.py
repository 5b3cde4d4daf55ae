"""The typed client against a real server, sync and async alike; and when it tries again."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from tests.http.serving import serving

from embank.client import calls
from embank.client.calls import Call
from embank.client.client import AsyncClient, Client, Methods
from embank.client.outcome import Retries
from embank.client.schemas import SearchAnswer, UpsertAnswer
from embank.errors import ServiceError, ServiceUnreachable
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = [{"id": f"d{n}", "text": f"document number {n}", "metadata": {"n": n}} for n in range(5)]


def test_both_clients_do_the_same(tmp_path: Path) -> None:
    with serving(tmp_path / "a.bank") as served:
        with Client(served.url) as client:
            written = client.upsert("notes", DOCUMENTS)
            assert isinstance(written, UpsertAnswer)
            assert (written.added, written.ids) == (5, [f"d{n}" for n in range(5)])
            found: SearchAnswer = client.search("notes", "document number 3", k=2, where={"n": {"$gte": 2}})
            assert found.hits[0].id == "d3"
            assert [each.id for each in client.page("notes", limit=2).documents] == ["d0", "d1"]
            vector = client.embed("document", model="hash").data[0].embedding
            assert vector == pytest.approx(HashModel().embed(["document"])[0].tolist(), abs=1e-3)
            assert client.purge("notes", keep=4).result is not None
            assert client.health(deep=True).status == "ok"
            client.upsert("drafts", DOCUMENTS)
            planned, dropped = client.drop("drafts", dry_run=True), client.drop("drafts")
            assert (planned.result or {})["documents"] == (dropped.result or {})["documents"] == 5
            assert "drafts" not in {each.name for each in client.collections().collections}

        async def run() -> None:
            async with AsyncClient(served.url) as client:
                assert (await client.count("notes")).count == 4
                hits, stats = await asyncio.gather(client.search("notes", "document number 4", k=1), client.stats())
                assert hits.hits[0].id == "d4"
                assert stats.documents >= 4
                with pytest.raises(ServiceError) as caught:
                    await client.show("nowhere")
                assert caught.value.fields["status"] == 404
                assert caught.value.fields["code"] == "collection_not_found"

        asyncio.run(run())


def test_every_call_is_a_method_and_every_route_a_call(tmp_path: Path) -> None:
    built = {name for name, each in vars(calls).items() if inspect.isfunction(each) and not name.startswith("_")}
    built -= {"quote", "dataclass"}
    assert built == {name for name in vars(Methods) if not name.startswith("_")}
    with serving(tmp_path / "a.bank") as served:
        paths = set(served.http.get("/openapi.json").json()["paths"])
    served_elsewhere = {
        "/livez", "/readyz", "/metrics", "/openapi.json", "/events", "/v1/models/{model}",
        "/collections/{name}/documents/{id}",
    }  # fmt: skip
    called = {_template(call) for call in _examples()}
    assert called == paths - served_elsewhere


def _examples() -> list[Call[Any]]:
    return [
        calls.embed("x", model="m"), calls.models(), calls.collections(), calls.show("{name}"), calls.count("{name}"),
        calls.upsert("{name}", [{"text": "x"}]), calls.get("{name}", ["x"]), calls.page("{name}"),
        calls.delete("{name}", ["x"]), calls.search("{name}", "x"), calls.import_lines("{name}", b""),
        calls.purge("{name}"), calls.compact("{name}"), calls.backup("x"), calls.jobs(), calls.job("{id}"),
        calls.cancel("{id}"), calls.stats(), calls.memory(), calls.release(), calls.clear_cache(), calls.audit(),
        calls.health(), calls.drop("{name}"),
    ]  # fmt: skip


def _template(call: Call[Any]) -> str:
    return call.path.replace("%7B", "{").replace("%7D", "}")


class Script:
    """A transport that answers as it was told, and counts."""

    def __init__(self, *answers: int | Exception, retry_after: str | None = None) -> None:
        self.answers = list(answers)
        self.headers = {} if retry_after is None else {"retry-after": retry_after}
        self.slept: list[float] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer, headers=self.headers, json={"count": 7}, request=request)


def _scripted(script: Script, **options: Any) -> Client:
    client = Client("http://server", sleep=script.slept.append, **options)
    client._http = httpx2.Client(transport=httpx2.MockTransport(script))
    return client


def test_it_comes_back_when_the_server_says_so() -> None:
    script = Script(429, 503, 200, retry_after="3")
    assert _scripted(script).count("c").count == 7
    assert script.slept == [3.0, 3.0]


def test_it_waits_longer_each_time_where_nobody_says() -> None:
    script = Script(503, httpx2.ConnectError("no"), 504, 200)
    assert _scripted(script).count("c").count == 7
    assert len(script.slept) == 3
    assert script.slept[0] < 0.26
    assert script.slept[2] >= 0.5


def test_it_gives_up_in_the_end() -> None:
    script = Script(*[503] * 3)
    with pytest.raises(ServiceError) as caught:
        _scripted(script, retries=Retries(most=2)).count("c")
    assert caught.value.fields["status"] == 503
    with pytest.raises(ServiceUnreachable):
        _scripted(Script(*[httpx2.ConnectError("no")] * 3), retries=Retries(most=2)).count("c")


def test_what_may_have_begun_a_job_is_not_sent_again() -> None:
    script = Script(504)
    with pytest.raises(ServiceError):
        _scripted(script).compact("c")
    assert script.slept == []
    with pytest.raises(ServiceUnreachable):
        _scripted(Script(httpx2.ReadError("gone"))).compact("c")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 500])
def test_what_will_not_change_is_told_at_once(status: int) -> None:
    script = Script(status)
    with pytest.raises(ServiceError):
        _scripted(script).count("c")
    assert script.slept == []


def test_an_answer_of_somebody_else_is_told() -> None:
    def page(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, text="<html>", request=request)

    client = Client("http://server")
    client._http = httpx2.Client(transport=httpx2.MockTransport(page))
    with pytest.raises(ServiceError, match="is this an Embank server"):
        client.count("c")

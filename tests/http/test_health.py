"""Health, figures, events and the OpenAPI of a running service."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.serving import serving
from tests.waiting import until

from embank.bank import Bank
from embank.errors import ModelError, ModelNotFound
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.serving import Served

    from embank.embed.model import Kind, Vectors


def test_alive_ready_and_healthy(served: Served) -> None:
    until(lambda: served.http.get("/readyz").status_code == 200, "it is ready")
    assert served.http.get("/livez").json()["status"] == "ok"
    assert served.http.get("/readyz").json() == {"status": "ok", "reasons": [], "checks": []}
    checks = served.http.get("/healthz").json()["checks"]
    assert {each["name"] for each in checks} == {"store", "disk", "memory"}


def test_answers_do_not_wait_for_acknowledgements(served: Served) -> None:
    """An answer is two writes, and the second must not wait for the first one's acknowledgement: 40 ms a request."""
    served.http.get("/livez")
    connections = list(served.server.server_state.connections)
    sockets = [each.transport.get_extra_info("socket") for each in connections]
    assert sockets
    assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)


def test_the_deep_check_embeds_writes_and_searches(served: Served) -> None:
    for _ in range(2):
        answer = served.http.get("/healthz", params={"deep": 1})
        assert answer.status_code == 200
        assert {each["name"] for each in answer.json()["checks"]} >= {"embed", "write and search"}
    info = served.http.get("/collections/embank-health").json()
    assert (info["documents"], info["chunks"]) == (1, 1)
    assert info["sequence"] >= 2, "each check writes"


class FailingModel(HashModel):
    """Fails once it is told to."""

    failing = False

    def embed(self, texts: Any, kind: Kind = "passage") -> Vectors:
        if self.failing:
            raise ModelNotFound("the weights went away")
        return super().embed(texts, kind)


def test_a_service_that_can_not_embed_says_so(tmp_path: Path) -> None:
    model = FailingModel()
    with serving(tmp_path / "a.bank", model=model) as served:
        assert served.http.get("/healthz", params={"deep": 1}).status_code == 200
        model.failing = True
        answer = served.http.get("/healthz", params={"deep": 1})
        assert answer.status_code == 503
        assert "embed: the weights went away" in answer.json()["reasons"]
        assert served.http.get("/healthz").status_code == 200
        embedding = served.http.post("/v1/embeddings", json={"model": "hash", "input": "x"})
        assert (embedding.status_code, embedding.json()["error"]["code"]) == (503, "model_not_found")


@pytest.mark.parametrize(("warm", "status"), [(True, 503), (False, 200)])
def test_it_is_ready_without_its_model_where_that_is_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, warm: bool, status: int
) -> None:
    def warm_up(_: Bank) -> None:
        raise ModelError("the weights are not there")

    monkeypatch.setattr(Bank, "warm", warm_up)
    with serving(tmp_path / "a.bank", warm=warm) as served:
        until(lambda: "not loaded yet" not in served.http.get("/readyz").text, "it has tried to load its model")
        answer = served.http.get("/readyz")
        assert (answer.status_code, "the weights are not there" in answer.text) == (status, warm)


def test_a_service_whose_disk_is_full_says_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.bank.engine.files, "free_bytes", lambda _: 1_000)
    answer = served.http.get("/healthz")
    assert answer.status_code == 503
    assert any(reason.startswith("disk: only 1000 bytes") for reason in answer.json()["reasons"])


def test_metrics_tell_of_requests_and_memory(served: Served) -> None:
    served.http.post("/collections/m/documents", json={"documents": [{"text": "a text"}]})
    served.http.post("/collections/m/search", json={"query": "text"})
    answer = served.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.text
    for wanted in (
        'embank_http_request_duration_quantile_seconds{method="POST",route="/collections/{name}/search",quantile="0.99"}',
        'embank_operation_duration_seconds_count{operation="search"}',
        "embank_memory_budget_bytes 2000000000",
        "embank_documents ",
        "embank_build_info{version=",
    ):
        assert wanted in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_events_are_streamed_and_losses_told(tmp_path: Path) -> None:
    with serving(tmp_path / "a.bank", events_kept=2, listeners=1) as served:
        seen: list[tuple[str, Any]] = []
        listening = threading.Event()

        def listen() -> None:
            with served.http.stream("GET", "/events", params={"kind": "DocumentsCommitted"}) as answer:
                name = ""
                for line in answer.iter_lines():
                    listening.set()
                    if line.startswith("event: "):
                        name = line[7:]
                    elif line.startswith("data: "):
                        seen.append((name, json.loads(line[6:])))

        thread = threading.Thread(target=listen)
        thread.start()
        assert listening.wait(30)
        assert served.http.get("/events").status_code == 429
        assert served.http.get("/events", params={"kind": "Nothing"}).status_code == 400
        collection = served.bank.collection("c")
        for number in range(20):
            collection.add([f"text {number}"])
        until(lambda: any(data.get("sequence") == 20 for _, data in seen), "the last commit is told")
        served.server.stop()
        thread.join(30)
        assert not thread.is_alive(), "a listener does not hold up the end"
    told = [data["sequence"] for name, data in seen if name == "DocumentsCommitted"]
    lost = [data["dropped"] for name, data in seen if name == "dropped"]
    assert told[-1] == 20
    assert len(told) + (lost[-1] if lost else 0) == 20


def test_the_openapi_describes_every_route_with_its_scope(served: Served) -> None:
    described = served.http.get("/openapi.json").json()
    operations = [each for path in described["paths"].values() for each in path.values()]
    assert not [each["operationId"] for each in operations if not each.get("description")]
    assert {each["x-embank-scope"] for each in operations} == {"nothing", "read", "write", "admin"}
    assert not [each for each in operations if "422" in each["responses"]]
    assert described["components"]["schemas"]["SearchAsked"]["examples"]


def test_the_caches_are_told_and_emptied_by_hand(served: Served) -> None:
    assert served.http.post("/v1/embeddings", json={"model": "hash", "input": "to be kept"}).status_code == 200
    assert served.http.get("/cache").json()["embeddings"]["entries"] >= 1
    assert served.http.post("/cache/clear").json()["freed_bytes"] > 0
    assert served.http.get("/cache").json()["embeddings"]["entries"] == 0

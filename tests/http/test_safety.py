"""Who may come in, what is refused before it costs anything, and how the service ends."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.serving import raw, serving
from tests.waiting import until

from embank.bank import open_bank
from embank.errors import InvalidInput
from embank.events.kinds import RequestAnswered
from embank.http.keys import KeyBook
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.serving import Served

    from embank.client.schemas import Scope
    from embank.embed.model import Kind, Vectors


SCOPES: tuple[Scope, ...] = ("read", "write", "admin")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, dict[str, str]]]:
    """A server with a key of each scope."""
    path = tmp_path_factory.mktemp("keyed") / "a.bank"
    open_bank(path, model=HashModel()).close()
    book = KeyBook(path)
    tokens: dict[str, str] = {scope: book.add(scope, scope, now=1.0)[1] for scope in SCOPES}
    with serving(path) as running:
        yield running, tokens


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer x", "Basic {read}", "Bearer {read}x", "Bearer emb_{zeros}"])
def test_what_is_no_key_opens_nothing(keyed: tuple[Served, dict[str, str]], shown: str) -> None:
    served, tokens = keyed
    header = shown.format(read=tokens["read"], zeros=f"{'0' * 12}_{'A' * 43}")
    answer = served.http.get("/collections", headers={"authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_keys_come_and_go_without_a_restart(keyed: tuple[Served, dict[str, str]]) -> None:
    served, tokens = keyed
    book = KeyBook(served.bank.path)
    key, token = book.add("new", "read", now=2.0)
    headers = {"authorization": f"Bearer {token}"}
    assert served.http.get("/collections", headers=headers).status_code == 200
    book.revoke(key.id, now=3.0)
    assert served.http.get("/collections", headers=headers).status_code == 401
    admin = {"authorization": f"Bearer {tokens['admin']}"}

    def is_on_record() -> bool:
        acts = served.http.get("/audit", headers=admin).json()["acts"]
        return any(act["act"] == "keys" and key.id in act["detail"]["revoked"] for act in acts)

    until(is_on_record, "the change of keys is on record")


def test_no_secret_is_kept(keyed: tuple[Served, dict[str, str]]) -> None:
    served, tokens = keyed
    content = (served.bank.path / "keys.json").read_text()
    assert not [token for token in tokens.values() if token.split("_", 2)[2] in content]
    assert (served.bank.path / "keys.json").stat().st_mode & 0o077 == 0


def test_wider_than_loopback_needs_a_key(tmp_path: Path) -> None:
    from embank.http.server import BankServer

    with (
        open_bank(tmp_path / "a.bank", model=HashModel(), flags={"http.host": "0.0.0.0", "http.port": 0}) as bank,  # noqa: S104 -- it is refused
        pytest.raises(InvalidInput, match="embank keys add"),
    ):
        BankServer(bank)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:8080"}, 421),
        ({"host": "localhost:1"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
    ],
)
def test_without_keys_only_this_machine_is_answered(served: Served, headers: dict[str, str], status: int) -> None:
    assert served.http.get("/collections", headers=headers).status_code == status


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with narrow limits."""
    limits: dict[str, Any] = {
        "body_limit": "64KB",
        "header_limit": "8KB",
        "batch_limit": 10,
        "header_wait_s": 0.5,
        "body_wait_s": 0.5,
        "connections": 50,
    }
    with serving(tmp_path_factory.mktemp("tight") / "a.bank", **limits) as running:
        yield running


POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(tight: Served) -> None:
    answer = raw(tight, POST + b"Content-Length: 100000000\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code": "too_large"' in answer


def test_a_chunked_body_beyond_the_limit_is_refused(tight: Served) -> None:
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    assert raw(tight, POST + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk, chunk).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_refused(tight: Served) -> None:
    assert raw(tight, POST + b"Content-Length: 100\r\n\r\n{").startswith(b"HTTP/1.1 408")


def test_headers_without_an_end_are_refused(tight: Served) -> None:
    answer = raw(tight, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 200_000)
    assert answer.startswith(b"HTTP/1.1 431")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"


def test_half_a_request_is_closed(tight: Served) -> None:
    assert raw(tight, b"POST /v1/embeddings HTTP/1.1\r\nHost: loc") == b""
    assert raw(tight) == b""


def test_huge_headers_are_refused(tight: Served) -> None:
    answer = raw(
        tight,
        b"GET /collections HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "garbage", [b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"\x16\x03\x01"]
)
def test_garbage_is_answered_or_closed(tight: Served, garbage: bytes) -> None:
    assert raw(tight, garbage).startswith((b"HTTP/1.1 400", b"")), "no crash"
    assert tight.http.get("/livez").status_code == 200


def test_connections_beyond_the_limit_are_closed(tight: Served) -> None:
    held = [socket.create_connection(tight.address, timeout=20) for _ in range(70)]
    closed = 0
    try:
        for connection in held:
            try:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                closed += not connection.recv(10)
            except OSError:
                closed += 1
    finally:
        for connection in held:
            connection.close()
    assert 10 <= closed <= 30


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"\xff\xfe{}", "application/json"),
        (b"[" * 60_000, "application/json"),
        (b'{"model": "hash", "input": "x"}', "text/plain"),
        (b"\x00", "application/json"),
        (b"", "application/json"),
        (b'{"model": "hash", "input": "\\ud800"}', "application/json"),
    ],
)
def test_undecodable_bodies_are_the_callers_fault(tight: Served, body: bytes, kind: str) -> None:
    answer = tight.http.post("/v1/embeddings", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}


def test_batches_beyond_the_limit_are_refused(tight: Served) -> None:
    documents = [{"text": str(n)} for n in range(11)]
    assert tight.http.post("/collections/c/documents", json={"documents": documents}).status_code == 413


def test_an_id_of_the_callers_is_kept_where_it_is_plain(served: Served) -> None:
    with served.bank.events.subscribe(kinds=[RequestAnswered]) as seen:
        assert served.http.get("/livez", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        odd = served.http.get("/livez", headers={"x-request-id": "a b;c"}).headers["x-request-id"]
        assert odd != "a b;c"
        events = seen.drain(wait_s=10)
    assert "mine-1" in [event.request_id for event in events if isinstance(event, RequestAnswered)]


def test_routes_do_not_grow_with_what_callers_write(served: Served) -> None:
    for number in range(30):
        served.http.get(f"/nowhere/{number}")
        served.http.get(f"/collections/c{number}")
    text = served.http.get("/metrics").text
    assert 'route="/collections/{name}",status="404"} 30' in text
    assert "/nowhere" not in text


# --- memory, load, and the end ----------------------------------------------------------------------------------------


class SlowModel(HashModel):
    """Answers once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.asked = threading.Event()

    def embed(self, texts: Any, kind: Kind = "passage") -> Vectors:
        self.asked.set()
        assert self.gate.wait(60)
        return super().embed(texts, kind)


def test_bodies_that_do_not_fit_into_memory_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "a.bank", body_limit="1GB") as served:
        governor = served.bank.engine.governor
        governor.budget_bytes = governor.snapshot().real_bytes + 60_000_000
        head = POST.replace(b"close", b"close\r\nX: y") + b"Content-Length: 40000000\r\n\r\n{"
        answer = raw(served, head)
        assert answer.startswith((b"HTTP/1.1 429", b"HTTP/1.1 413"))
        assert b"memory.budget" in answer
        assert served.http.post("/v1/embeddings", json={"model": "hash", "input": "x"}).status_code == 200
        until(lambda: served.server.service.admission.used_bytes == 0, "its memory is given back")


def test_who_goes_away_in_the_middle_leaves_nothing_behind(served: Served) -> None:
    for _ in range(5):
        with socket.create_connection(served.address, timeout=20) as connection:
            connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n{" + b" " * 100_000)
    until(lambda: not served.server.service.requests, "no request is left")
    until(lambda: served.server.service.admission.used_bytes == 0, "their memory is given back")


def test_beyond_what_may_wait_it_says_when_to_come_back(tmp_path: Path) -> None:
    model = SlowModel()
    with serving(tmp_path / "a.bank", model=model, threads=1, waiting=0, coalesce_texts=0) as served:
        asked = {"model": "hash", "input": "x"}
        first: list[Any] = []
        thread = threading.Thread(target=lambda: first.append(served.http.post("/v1/embeddings", json=asked)))
        thread.start()
        assert model.asked.wait(30)
        answer = served.http.post("/v1/embeddings", json=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
        assert int(answer.headers["retry-after"]) >= 1
        assert served.http.get("/livez").status_code == 200, "the event loop is free"
        model.gate.set()
        thread.join(30)
        assert first[0].status_code == 200


def test_who_would_wait_for_long_is_told_before_the_body_is_read(tmp_path: Path) -> None:
    """A server with too much to do spends nothing on what it refuses."""
    model = SlowModel()
    with serving(tmp_path / "a.bank", model=model, thread_wait_s=0.05, coalesce_wait_s=0.01, body_wait_s=60) as served:
        asked = {"model": "hash", "input": "x"}
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(served.http.post("/v1/embeddings", json=asked)))
            for _ in range(3)
        ]
        for number, thread in enumerate(threads, 1):  # two batches, and one that waits
            thread.start()
            until(partial(lambda n: served.server.service.embedding.requests >= n, number), f"{number} requests")
            time.sleep(0.1)
        with socket.create_connection(served.address, timeout=20) as connection:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 429")
        model.gate.set()
        for thread in threads:
            thread.join(30)
        assert [each.status_code for each in answers] == [200] * 3


def test_who_would_wait_for_long_is_told_at_once(tmp_path: Path) -> None:
    """There is place in the line, but it does not move."""
    model = SlowModel()
    with serving(tmp_path / "a.bank", model=model, threads=1, thread_wait_s=0.05, coalesce_texts=0) as served:
        asked = {"model": "hash", "input": "x"}
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(served.http.post("/v1/embeddings", json=asked)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: served.server.service.workers.busy >= 2, "both are at work")
        time.sleep(0.1)  # what the second one waits
        refused = served.http.post("/v1/embeddings", json=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy")
        model.gate.set()
        for thread in threads:
            thread.join(30)
        assert [each.status_code for each in answers] == [200, 200]
        assert served.http.post("/v1/embeddings", json=asked).status_code == 200, "the line is short again"


def test_what_takes_too_long_is_answered_so(tmp_path: Path) -> None:
    model = SlowModel()
    with serving(tmp_path / "a.bank", model=model, request_wait_s=0.3) as served:
        answer = served.http.post("/v1/embeddings", json={"model": "hash", "input": "x"})
        model.gate.set()
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "too_slow")


def test_what_was_begun_is_finished_at_the_end(tmp_path: Path) -> None:
    model = SlowModel()
    answers: list[Any] = []
    with serving(tmp_path / "a.bank", model=model) as served:
        asked = {"documents": [{"id": "last", "text": "the last word"}]}
        thread = threading.Thread(
            target=lambda: answers.append(served.http.post("/collections/c/documents", json=asked))
        )
        thread.start()
        assert model.asked.wait(30)
        served.server.service.drain()
        refused = served.http.get("/collections")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert served.http.get("/readyz").status_code == 503
        assert served.http.get("/livez").status_code == 200
        served.server.stop()
        model.gate.set()
        thread.join(60)
    assert answers[0].status_code == 200
    with open_bank(tmp_path / "a.bank", read_only=True) as bank:
        assert bank.collection("c").get("last")[0].text == "the last word"


def test_what_nobody_foresaw_tells_no_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path / "a.bank") as served:

        def fail() -> None:
            raise RuntimeError("secret words")

        served.server.service.bank.collections = fail  # type: ignore[method-assign, assignment]
        answer = served.http.get("/collections")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert "secret" not in answer.text
        until(lambda: "secret words" in caplog.text, "the log, which comes after the answer")
        assert answer.json()["error"]["request_id"] in caplog.text
        del served.server.service.bank.collections

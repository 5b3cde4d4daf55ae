"""Remote models against a real endpoint on loopback that misbehaves as it is told to."""

from __future__ import annotations

import base64
import email.utils
import json
import logging
import math
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.embed.endpoint_server import (
    Body,
    EndpointServer,
    drops,
    flood,
    hang_up,
    hang_up_in_the_middle,
    raw,
    running,
    silence,
    status,
)

from embank.config import load
from embank.embed.engine import Unbudgeted
from embank.embed.loader import Loader
from embank.embed.model import CountsTokens, Model
from embank.embed.remote.answer import MOST_DIMENSIONS, answer_bytes, reading_bytes
from embank.embed.remote.endpoint import read_endpoint
from embank.embed.remote.model import RemoteModel
from embank.embed.remote.settings import Settings
from embank.embed.settings import Settings as EmbedSettings
from embank.errors import BudgetExceeded, ConfigError, InvalidInput, OfflineMode, RemoteFailed
from embank.events.kinds import Event, ModelLoaded, ModelLoadFailed, RemoteRequestEnded, TextsEmbedded
from embank.memory.governor import Governor
from embank.registry import SECTIONS
from embank.testing.fakes import HashModel
from embank.testing.models import ModelContract

KEY = "sk-secret-0123456789"


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.of(RemoteRequestEnded)]


class HandClock:
    """Sleeping takes no time and moves it on."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept_s = 0.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.slept_s += seconds


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with running(HashModel(dimension=64, max_tokens=256)) as made:
        yield made


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


Make = Callable[..., RemoteModel]


@pytest.fixture
def make(server: EndpointServer, heard: Heard, clock: HandClock) -> Iterator[Make]:
    """Models of the server, with settings of one's own; their connections are closed at the end."""
    made: list[RemoteModel] = []

    def build(
        *, budget: Any = None, dimensions: int | None = None, jitter: float = 1.0, **settings: Any
    ) -> RemoteModel:
        model = RemoteModel(
            "hash",
            Settings.model_validate({"url": server.url, "max_tokens": 256, **settings}),
            dimensions=dimensions,
            budget=budget or Unbudgeted(),
            publisher=heard,
            clock=clock,
            jitter=lambda: jitter,
        )
        made.append(model)
        return model

    yield build
    server.ended.set()
    for model in made:
        model.unload()


class _Suite(ModelContract):
    floats = False

    @pytest.fixture
    def model(self, server: EndpointServer) -> Iterator[Model]:
        server.floats = self.floats
        loader = Loader(
            EmbedSettings(model="remote:hash"),
            remote=Settings.model_validate({"url": server.url, "max_tokens": 256, "batch_texts": 7}),
        )
        yield loader.get()
        loader.close()


class TestRemote(_Suite):
    pass


class TestRemoteThatAnswersFloats(_Suite):
    floats = True


# --- what is asked --------------------------------------------------------------------------------------------------


def test_vectors_are_the_endpoints_in_the_order_of_the_texts(make: Make, server: EndpointServer) -> None:
    server.spoil = lambda answer: {**answer, "data": answer["data"][::-1]}
    texts = [f"number {number}" for number in range(100)]
    vectors = make(batch_texts=9).embed(texts)
    assert np.allclose(vectors, server.model.embed(texts), atol=1e-6)


def test_a_request_is_what_the_api_documents(make: Make, server: EndpointServer) -> None:
    make(query_prefix="query: ", passage_prefix="passage: ", key=KEY).embed(["where?"], "query")
    probe, request = server.seen
    assert request.path == "/v1/embeddings"
    assert request.body == {"model": "hash", "input": ["query: where?"], "encoding_format": "base64"}
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Accept-Encoding"] == "identity"
    assert probe.texts == ["passage: dimension"]


def test_dimensions_are_asked_for_and_then_nothing_is_learned(make: Make, server: EndpointServer) -> None:
    model = make(dimensions=16)
    assert model.dimension == 16
    assert server.seen == []
    vectors = model.embed(["a b"])
    assert [request.body["dimensions"] for request in server.seen] == [16]
    whole = server.model.embed(["a b"])[:, :16]
    assert np.allclose(vectors, whole / np.linalg.norm(whole), atol=1e-6)


def test_dimensions_that_the_endpoint_does_not_keep_to_are_named(make: Make, server: EndpointServer) -> None:
    server.spoil = lambda answer: {
        **answer,
        "data": [{**entry, "embedding": [1.0] * 64} for entry in answer["data"]],
    }
    with pytest.raises(RemoteFailed, match=r"64 numbers .* 16 were due: .* can't cut its vectors to 16"):
        make(dimensions=16).embed(["a"])


def test_equal_texts_are_sent_once_a_call(make: Make, server: EndpointServer) -> None:
    texts = [f"number {index % 7}" for index in range(90)]
    vectors = make(batch_texts=4).embed(texts)
    assert sorted(server.texts) == sorted(set(texts))
    assert np.allclose(vectors, server.model.embed(texts), atol=1e-6)


def test_batches_are_bounded_by_texts_and_by_bytes(make: Make, server: EndpointServer) -> None:
    texts = [f"{index:03} " + "ä" * 48 for index in range(20)]  # 100 bytes each
    make(batch_texts=8, batch_bytes="500B", concurrency=1).embed([*texts, "x" * 2000, "end"])
    sent = [request.texts for request in server.seen[1:]]
    assert [len(texts) for texts in sent] == [5, 5, 5, 5, 1, 1]
    server.seen.clear()
    make(batch_texts=8, concurrency=1).embed(texts)
    assert [len(request.texts) for request in server.seen[1:]] == [8, 8, 4]


def test_several_requests_are_under_way_but_no_more_than_were_set(make: Make, server: EndpointServer) -> None:
    """All calls together: each of the first requests waits until three are there, which more than three would pass."""
    together = threading.Barrier(3)

    def meet(handler: Any) -> None:
        together.wait(10)
        handler.send(json.dumps(server.answer(handler.body)).encode())

    model = make(batch_texts=1, concurrency=3)
    model.warm()
    server.script = [meet] * 12
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(model.embed, [f"{call} {index}" for index in range(6)]) for call in range(4)]
        for number, call in enumerate(calls):
            wanted = server.model.embed([f"{number} {index}" for index in range(6)])
            assert np.allclose(call.result(), wanted, atol=1e-6)
    assert server.most_under_way == 3
    assert server.connections == 3


def test_fifty_threads_learn_the_width_once(make: Make, server: EndpointServer, heard: Heard) -> None:
    model = make()
    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(lambda _: model.dimension, range(50))) == {64}
    assert len(server.seen) == 1
    assert len(heard.of(ModelLoaded)) == 1


# --- what is tried again --------------------------------------------------------------------------------------------


def test_errors_of_the_server_are_tried_again(
    make: Make, server: EndpointServer, heard: Heard, clock: HandClock
) -> None:
    model = make(dimensions=64)
    server.script = [status(500), status(503), raw(b"<html>bad gateway</html>", code=502)]
    assert np.allclose(model.embed(["a b"]), server.model.embed(["a b"]), atol=1e-6)
    assert heard.outcomes() == ["server_error"] * 3 + ["answered"]
    assert [event.attempt for event in heard.of(RemoteRequestEnded)] == [1, 2, 3, 4]
    assert clock.slept_s == pytest.approx(0.5 + 1.0 + 2.0)


def test_pauses_are_jittered_down_to_the_half(make: Make, server: EndpointServer, clock: HandClock) -> None:
    server.script = [status(500)] * 3
    make(dimensions=64, jitter=0.0).embed(["a"])
    assert clock.slept_s == pytest.approx(0.25 + 0.5 + 1.0)


def test_too_many_requests_wait_as_long_as_the_server_says(
    make: Make, server: EndpointServer, heard: Heard, clock: HandClock
) -> None:
    model = make(dimensions=64)
    date = email.utils.formatdate(clock.now() + 40, usegmt=True)
    server.script = [status(429, headers={"Retry-After": "7"}), status(429, headers={"Retry-After": date})]
    model.embed(["a"])
    assert heard.outcomes() == ["rate_limited", "rate_limited", "answered"]
    assert clock.slept_s == pytest.approx(40.0, abs=1.0)


def test_a_wait_that_one_request_was_told_of_holds_for_all(
    make: Make, server: EndpointServer, clock: HandClock
) -> None:
    model = make(dimensions=64, attempts=1)
    server.script = [status(429, headers={"Retry-After": "30"})]
    with pytest.raises(RemoteFailed, match=r"tried once .* 429"):
        model.embed(["a"])
    assert clock.slept_s == 0
    model.embed(["b"])
    assert clock.slept_s == pytest.approx(30)


@pytest.mark.parametrize("value", ["soon", "-5", "", "1e9", "Thu, 99 Nov 2023 99:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_passed_over(
    make: Make, server: EndpointServer, clock: HandClock, value: str
) -> None:
    server.script = [status(429, headers={"Retry-After": value})]
    make(dimensions=64).embed(["a"])
    assert clock.slept_s == pytest.approx(0.5)


def test_a_wait_beyond_the_deadline_is_not_begun(make: Make, server: EndpointServer, clock: HandClock) -> None:
    server.script = [status(429, "slow down", headers={"Retry-After": "3600"})]
    with pytest.raises(
        RemoteFailed, match=r"deadline_s \(60 s\) .* 429: slow down \(and asks to wait 3600 s\)"
    ) as caught:
        make(dimensions=64, deadline_s=60).embed(["a"])
    assert caught.value.fields["outcome"] == "deadline"
    assert clock.slept_s == 0


def test_other_errors_are_told_at_once_with_what_the_server_says(
    make: Make, server: EndpointServer, heard: Heard
) -> None:
    for code, hint in (
        (400, "$"),
        (401, "remote.key"),
        (404, "remote.url"),
        (413, "batch_texts"),
        (422, "batch_texts"),
    ):
        server.script = [status(code, "maximum context length is 8192\ntokens")]
        with pytest.raises(RemoteFailed, match=rf"status {code}: maximum context length is 8192 tokens.*{hint}"):
            make(dimensions=64).embed(["a"])
    assert heard.outcomes() == ["refused"] * 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": "no such model"}', "no such model"),
        (b'{"detail": [{"msg": "too long"}]}', "too long"),
        (b'{"message": "nope"}', "nope"),
        (b"plain words\x1b[31m\x00", "plain words"),
        (b"\xff\xfe", "status 400"),
        (b"<html>" + b"x" * 100_000, "status 400$"),
        (b"", "status 400$"),
        (b"[" * 100_000, "status 400"),
        (b"y" * 1_000_000, r"y{50,}\.\.\.$"),
    ],
)
def test_errors_in_any_form_are_shown_in_one_short_line(
    make: Make, server: EndpointServer, content: bytes, message: str
) -> None:
    server.script = [raw(content, code=400)]
    with pytest.raises(RemoteFailed, match=message) as caught:
        make(dimensions=64).embed(["a"])
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_after_the_last_attempt_it_says_how_often_and_why(make: Make, server: EndpointServer, heard: Heard) -> None:
    server.script = [status(503, "overloaded")] * 3
    with pytest.raises(RemoteFailed, match=r"was tried 3 times in 1\.5 s: it answered with the status 503: overloaded"):
        make(dimensions=64, attempts=3).embed(["a"])
    assert heard.of(TextsEmbedded) == []


def test_the_deadline_ends_it_however_many_attempts_there_are(
    make: Make, server: EndpointServer, heard: Heard, clock: HandClock
) -> None:
    server.script = [status(503)] * 100
    with pytest.raises(RemoteFailed, match=r"remote\.deadline_s \(20 s\)") as caught:
        make(dimensions=64, attempts=100, deadline_s=20).embed(["a"])
    assert caught.value.fields["outcome"] == "deadline"
    assert clock.slept_s < 20
    assert 3 < len(heard.outcomes()) < 10


def test_a_failure_ends_the_whole_call(make: Make, server: EndpointServer, heard: Heard) -> None:
    model = make(batch_texts=1, concurrency=2, dimensions=64)
    server.script = [status(400, "no")]
    with pytest.raises(RemoteFailed, match="status 400: no"):
        model.embed([f"text {index}" for index in range(500)])
    assert len(server.seen) < 100
    assert heard.of(TextsEmbedded) == []
    assert model.embed(["a"]).shape == (1, 64)


def test_requests_are_spaced_to_the_rate_that_was_set(make: Make, server: EndpointServer, clock: HandClock) -> None:
    make(dimensions=64, batch_texts=1, concurrency=1, requests_per_minute=30).embed([str(index) for index in range(10)])
    assert clock.slept_s == pytest.approx(9 * 2.0)
    with pytest.raises(RemoteFailed, match="deadline_s"):
        make(dimensions=64, batch_texts=1, concurrency=1, requests_per_minute=1, deadline_s=90).embed(["a", "b", "c"])


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [silence, drops])
def test_an_answer_that_does_not_come_in_time_is_given_up(server: EndpointServer, heard: Heard, act: Any) -> None:
    """On the machine's own clock, since it is the machine's sockets that wait."""
    from embank.system.clock import SystemClock

    settings = Settings(url=server.url, timeout_s=0.2, attempts=2, dimensions=64)
    model = RemoteModel("hash", settings, budget=Unbudgeted(), publisher=heard, clock=SystemClock())
    server.script = [act, act]
    with pytest.raises(RemoteFailed, match=r"tried 2 times .* did not answer within 0\.2 s"):
        model.embed(["a"])
    assert heard.outcomes() == ["timeout", "timeout"]
    server.ended.set()
    assert np.allclose(model.embed(["a b"]), server.model.embed(["a b"]), atol=1e-6)
    model.unload()


@pytest.mark.parametrize("act", [hang_up, hang_up_in_the_middle])
def test_a_connection_that_breaks_is_tried_again(make: Make, server: EndpointServer, heard: Heard, act: Any) -> None:
    server.script = [act, act]
    assert np.allclose(make(dimensions=64).embed(["a b"]), server.model.embed(["a b"]), atol=1e-6)
    assert heard.outcomes() == ["dropped", "dropped", "answered"]


def test_nobody_listening_is_named(heard: Heard, clock: HandClock) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        model = RemoteModel("m", Settings(url=url), budget=Unbudgeted(), publisher=heard, clock=clock)
        with pytest.raises(RemoteFailed, match=r"can't be reached: .*refused"):
            model.embed(["a"])
    assert heard.outcomes() == ["unreachable"] * 5
    assert model.state().status == "failed"
    assert "can't be reached" in model.state().error
    assert len(heard.of(ModelLoadFailed)) == 1


def test_http_where_https_was_meant_is_not_tried_again(server: EndpointServer, heard: Heard, clock: HandClock) -> None:
    url = server.url.replace("http://", "https://")
    model = RemoteModel("m", Settings(url=url), budget=Unbudgeted(), publisher=heard, clock=clock)
    with pytest.raises(RemoteFailed, match=r"can't be reached: .*SSL"):
        model.embed(["a"])
    assert heard.outcomes() == ["unreachable"]
    model.unload()


def test_redirects_are_not_followed(make: Make, server: EndpointServer, heard: Heard) -> None:
    server.script = [status(307, headers={"Location": f"{server.url}/embeddings?again=1"})] * 3
    with pytest.raises(RemoteFailed, match=r"sent us on to 'http://127\.0\.0\.1:\d+/v1/embeddings' \(307\)"):
        make(dimensions=64, key=KEY).embed(["a"])
    assert len(server.seen) == 1
    assert heard.outcomes() == ["redirected"]


def test_an_endless_body_is_read_no_further_than_the_answer_can_be(
    make: Make, server: EndpointServer, heard: Heard
) -> None:
    model = make(dimensions=64)
    model.embed(["a"])
    server.script = [flood]
    with pytest.raises(RemoteFailed, match=r"answered with more than the \d+ bytes"):
        model.embed(["a b"])
    (*_, event) = heard.of(RemoteRequestEnded)
    assert event.outcome == "too_large"
    assert answer_bytes(1, 64) < event.received_bytes <= answer_bytes(1, 64) + (1 << 20)


def test_a_longer_answer_than_asked_for_is_refused_whole(make: Make, server: EndpointServer) -> None:
    content = json.dumps({**server.answer({"input": ["a"], "model": "m"}), "more": "x" * 200_000}).encode()
    server.script = [raw(content)]
    with pytest.raises(RemoteFailed, match="more than the"):
        make(dimensions=64).embed(["a"])


def test_a_coding_that_nobody_asked_for_is_refused(make: Make, server: EndpointServer) -> None:
    server.script = [raw(b"\x1f\x8b" + b"0" * 100, headers={"Content-Encoding": "gzip"})]
    with pytest.raises(RemoteFailed, match="coding 'gzip', unasked"):
        make(dimensions=64).embed(["a"])


@pytest.mark.parametrize("dimensions", [64, None])
@pytest.mark.parametrize("filler", [b"[],", b"{},", b'{"":[{}]},', b"0,", b"[", b'"ab",', b'{"a":'])
def test_no_answer_makes_this_process_hold_more_than_was_reserved(
    make: Make, server: EndpointServer, filler: bytes, dimensions: int | None
) -> None:
    """JSON of which a few bytes make an object of many, as much of it as may be sent."""
    width = dimensions or MOST_DIMENSIONS
    content = b'{"data": [' + filler * (answer_bytes(1, width) // len(filler) - 20)
    server.script = [raw(content)]
    model = make(dimensions=dimensions)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteFailed):
            model.embed(["a"])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The server of this very process holds the content once more, and the client's library comes in by the way.
    assert peak_bytes < reading_bytes(1, width) + (4 << 20)


# --- answers that are wrong -----------------------------------------------------------------------------------------


def entries(change: Callable[[list[Any]], Any]) -> Callable[[Body], Body]:
    return lambda answer: {**answer, "data": change(answer["data"])}


def vector_of(value: Any) -> Callable[[Body], Body]:
    """The second vector is `value`, or what it makes of the right one."""

    def change(data: list[Any]) -> list[Any]:
        right = np.frombuffer(base64.b64decode(data[1]["embedding"]), dtype="<f4")
        data[1]["embedding"] = value(right.tolist()) if callable(value) else value
        return data

    return entries(change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (entries(lambda data: data[:1]), "1 vectors for 2 texts"),
        (entries(lambda data: [*data, data[0]]), "3 vectors for 2 texts"),
        (entries(lambda data: []), "0 vectors for 2 texts"),
        (entries(lambda data: [data[1], data[1]]), r"vector of texts\[1\] twice"),
        (entries(lambda data: [data[0], {**data[1], "index": 2}]), "index 2 where 0 to 1 can be"),
        (entries(lambda data: [data[0], {**data[1], "index": -1}]), "index -1"),
        (entries(lambda data: [data[0], {**data[1], "index": "1"}]), "index '1'"),
        (entries(lambda data: [data[0], {**data[1], "index": True}]), "index True"),
        (entries(lambda data: [data[0], {"embedding": data[1]["embedding"]}]), "index None"),
        (entries(lambda data: [data[0], None]), "a NoneType in 'data'"),
        (entries(lambda data: {"0": 1}), "no list 'data'"),
        (lambda answer: {"object": "list"}, "no list 'data'"),
        (lambda answer: {"error": {"message": "out of quota"}}, "but the error 'out of quota'"),
        (lambda answer: [answer], "a JSON list, not an object"),
        (lambda answer: None, "a JSON NoneType"),
        (vector_of(lambda right: right[:63]), r"63 numbers for texts\[1\] where 64 were due"),
        (vector_of(lambda right: [*right, 0.0]), r"65 numbers for texts\[1\] where 64 were due"),
        (vector_of([]), "0 numbers"),
        (vector_of(""), "0 numbers"),
        (vector_of("AAAA"), "no base64 of float32"),
        (vector_of("no base64 at all"), "no base64 of float32"),
        (vector_of("ä" * 12), "no base64 of float32"),
        (vector_of(None), r"no list of numbers as the vector of texts\[1\]"),
        (vector_of(0.5), "no list of numbers"),
        (vector_of({"0": 1.0}), "no list of numbers"),
        (vector_of(lambda right: [str(number) for number in right]), "no list of numbers"),
        (vector_of(lambda right: [None, *right[1:]]), "no list of numbers"),
        (vector_of(lambda right: [True, *right[1:]]), "no list of numbers"),
        (vector_of(lambda right: [right, right]), "no list of numbers"),
        (vector_of(lambda right: [math.nan, *right[1:]]), r"texts\[1\] with a vector of norm nan"),
        (vector_of(lambda right: [-math.inf, *right[1:]]), "norm inf"),
        (vector_of(lambda right: [1e300, *right[1:]]), "norm inf"),
        (vector_of(lambda right: [10**400, *right[1:]]), "a number beyond float32"),
        (vector_of([0.0] * 64), r"texts\[1\] with a vector of norm 0"),
        (vector_of(base64.b64encode(np.full(64, np.nan, dtype="<f4").tobytes()).decode()), "norm nan"),
    ],
)
def test_an_answer_that_is_wrong_anywhere_is_refused_whole(
    make: Make, server: EndpointServer, heard: Heard, spoil: Callable[[Body], Any], message: str
) -> None:
    model = make(dimensions=64)
    server.spoil = spoil
    with pytest.raises(RemoteFailed, match=message):
        model.embed(["one", "two"])
    assert len(server.seen) == 1  # it would be no better the next time
    assert heard.outcomes()[0] in {"garbage", "wrong_width", "no_direction"}
    assert heard.of(TextsEmbedded) == []
    server.spoil = lambda answer: answer
    assert np.allclose(model.embed(["one", "two"]), server.model.embed(["one", "two"]), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty body"),
        (b" \n", "empty body"),
        (b"<!doctype html><title>Login</title>", "HTML, not JSON: is remote.url"),
        (b"OK", "what is no JSON"),
        (b'{"data": [', "what is no JSON"),
        (b"\xff\xfe\x00", "what is no JSON"),
        (b'{"data": ' + b"9" * 10_000 + b"}", "what is no JSON"),
        ("{}".encode("utf-16"), "what is no JSON"),
    ],
)
def test_what_is_no_answer_at_all_is_named(make: Make, server: EndpointServer, content: bytes, message: str) -> None:
    server.script = [raw(content)]
    with pytest.raises(RemoteFailed, match=message):
        make(dimensions=64).embed(["a"])


def test_a_success_without_content_is_no_answer(make: Make, server: EndpointServer) -> None:
    server.script = [raw(b"", code=204)]
    with pytest.raises(RemoteFailed, match="status 204"):
        make(dimensions=64).embed(["a"])


def test_the_text_that_is_named_is_the_callers(make: Make, server: EndpointServer) -> None:
    asked: list[Body] = []

    def spoil(answer: Body) -> Body:
        asked.append(answer)
        return vector_of([0.0] * 64)(answer) if len(asked) == 3 else answer

    server.spoil = spoil
    with pytest.raises(RemoteFailed, match=r"texts\[6\]"):
        make(batch_texts=2, concurrency=1, dimensions=64).embed(["a", "b", "c", "d", "a", "e", "f"])


def test_the_width_that_was_learned_is_kept(make: Make, server: EndpointServer) -> None:
    model = make()
    assert model.dimension == 64
    server.model = HashModel(dimension=32)
    with pytest.raises(RemoteFailed, match=r"32 numbers .* 64 were due"):
        model.embed(["a"])
    assert model.dimension == 64


def test_a_first_answer_that_is_wrong_teaches_nothing(make: Make, server: EndpointServer) -> None:
    model = make(attempts=1)
    server.script = [raw(b'{"data": [{"index": 0, "embedding": []}]}'), status(500)]
    with pytest.raises(RemoteFailed, match="0 numbers"):
        model.warm()
    with pytest.raises(RemoteFailed, match="500"):
        _ = model.fingerprint
    assert model.state().status == "failed"
    assert model.dimension == 64
    assert model.state().status == "ready"


def test_vectors_of_any_length_are_made_unit_vectors_or_refused(make: Make, server: EndpointServer) -> None:
    server.spoil = vector_of(lambda right: [number * 3e20 for number in right])
    vectors = make(dimensions=64).embed(["one", "two"])
    assert np.allclose(vectors, server.model.embed(["one", "two"]), atol=1e-6)
    with pytest.raises(RemoteFailed, match=r"norm 3e\+20, not 1 \(remote\.normalize does that"):
        make(dimensions=64, normalize=False).embed(["one", "two"])


# --- memory ---------------------------------------------------------------------------------------------------------


class Counting(Unbudgeted):
    """Grants what it is asked for, up to `most_bytes`, and keeps count."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.asked: list[tuple[str, int, int | None]] = []

    def reserve(self, what: str, wanted_bytes: int, *, least_bytes: int | None = None, wait_s: float = 0.0) -> Any:
        self.asked.append((what, wanted_bytes, least_bytes))
        return super().reserve(what, min(wanted_bytes, self.most_bytes))


def test_requests_shrink_to_what_is_granted(make: Make, server: EndpointServer) -> None:
    budget = Counting(reading_bytes(5, 64) + 5 * 100)
    texts = [f"number {index}" for index in range(32)]
    vectors = make(budget=budget, dimensions=64, concurrency=1).embed(texts)
    assert np.allclose(vectors, server.model.embed(texts), atol=1e-6)
    assert {len(request.texts) for request in server.seen} == {5, 2}
    assert budget.asked == [("remote request", *map(pytest.approx, (reading_bytes(32, 64), reading_bytes(1, 64))))] or (
        budget.asked[0][1] > reading_bytes(32, 64) > (budget.asked[0][2] or 0) > reading_bytes(1, 64)
    )


def test_what_cannot_fit_is_not_sent(make: Make, server: EndpointServer) -> None:
    governor = Governor(1, baseline_bytes=1 << 40)
    with pytest.raises(BudgetExceeded, match="remote request"):
        make(budget=governor, dimensions=64).embed(["a"])
    assert server.seen == []


def test_a_large_answer_is_reserved_too(make: Make) -> None:
    budget = Counting(1 << 40)
    make(budget=budget, dimensions=64).embed([f"{index % 3}" for index in range(5000)])
    assert budget.asked[0] == ("remote vectors", 5000 * 64 * 4, None)


# --- keys, places, names --------------------------------------------------------------------------------------------


def test_the_key_is_nowhere_to_be_seen(
    make: Make, server: EndpointServer, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    model = make(key=KEY)
    server.script = [status(500, f"{KEY} looks odd"), status(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(RemoteFailed, match=r"provided: \*\*\*") as caught:
        model.embed(["a text of my own"])
    model.embed(["a text of my own"])
    assert all(request.headers["Authorization"].endswith(KEY) for request in server.seen)
    settings = Settings(key=KEY)  # type: ignore[arg-type]  # as text, as settings come
    seen = [str(caught.value), repr(caught.value.fields), repr(heard.events), caplog.text, repr(model.state())]
    for told in (*seen, repr(settings), settings.model_dump_json(), repr(vars(model))):
        assert KEY not in told
    assert "text of my own" not in repr(heard.events) + caplog.text


def test_a_key_that_cannot_be_sent_is_refused_unseen() -> None:
    with pytest.raises(ConfigError, match="value hidden") as caught:
        load({"remote": Settings}, file=None, environ={"EMBANK_REMOTE__KEY": f"{KEY}\r\nX-Evil: 1"}, flags={})
    assert KEY not in str(caught.value)
    assert Settings(key="  ").key is None  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["http://example.com/v1", "http://10.0.0.7:8080", "http://127.0.0.1.example.com"])
def test_a_key_is_never_sent_in_the_open(url: str, heard: Heard, clock: HandClock) -> None:
    settings = Settings(url=url, key=KEY)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"remote\.key is not sent to http://.*make remote\.url an https address"):
        RemoteModel("m", settings, budget=Unbudgeted(), publisher=heard, clock=clock)
    RemoteModel("m", Settings(url=url), budget=Unbudgeted(), publisher=heard, clock=clock)


def test_a_proxy_of_the_environment_is_not_on_the_way_to_this_machine(
    make: Make, server: EndpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert make(key=KEY).embed(["a"]).shape == (1, 64)


def test_cookies_are_not_kept(make: Make, server: EndpointServer) -> None:
    model = make(dimensions=64)
    content = json.dumps(server.answer({"input": ["a"], "model": "m"})).encode()
    server.script = [raw(content, headers={"Set-Cookie": "track=1; Path=/"})]
    model.embed(["a"])
    model.embed(["b"])
    assert "Cookie" not in server.seen[1].headers


def test_offline_only_this_machine_is_asked(server: EndpointServer) -> None:
    away = Settings(url="https://example.com/v1")
    with pytest.raises(
        OfflineMode, match=r"embed\.offline is set, and the model remote:m is at https://example\.com/v1"
    ):
        Loader(EmbedSettings(offline=True), remote=away).get("remote:m")
    loader = Loader(EmbedSettings(offline=True), remote=Settings(url=server.url))
    assert loader.get("remote:hash").dimension == 64
    loader.close()


@pytest.mark.parametrize(
    ("url", "place", "is_loopback"),
    [
        ("https://api.example.com", "https://api.example.com/v1/embeddings", False),
        ("https://API.example.com:443/v1/", "https://api.example.com/v1/embeddings", False),
        ("https://h.example/openai/v1/embeddings?api-version=1", "https://h.example/openai/v1/embeddings", False),
        ("http://localhost:11434/v1", "http://localhost:11434/v1/embeddings", True),
        ("http://[::1]:80/v1", "http://[::1]/v1/embeddings", True),
        ("http://127.9.9.9", "http://127.9.9.9/v1/embeddings", True),
        ("http://localhost.example.com", "http://localhost.example.com/v1/embeddings", False),
    ],
)
def test_an_address_is_read_as_it_was_meant(url: str, place: str, is_loopback: bool) -> None:  # noqa: FBT001
    endpoint = read_endpoint(url)
    assert (endpoint.place, endpoint.is_loopback) == (place, is_loopback)
    assert endpoint.url.startswith(place)
    assert ("api-version=1" in endpoint.url) == ("api-version" in url)


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com/v1",
        "ftp://example.com",
        "https://",
        "http://h:99999",
        "http://h/a b",
        "http://h\n",
        "http://[x",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"remote\.url"):
        load({"remote": Settings}, file=None, environ={}, flags={"remote.url": url})


def test_a_password_does_not_belong_into_an_address() -> None:
    with pytest.raises(InvalidInput, match=r"set remote\.key"):
        read_endpoint("https://me:secret@example.com/v1")


def test_the_fingerprint_tells_models_places_widths_and_prefixes_apart(
    make: Make, heard: Heard, clock: HandClock
) -> None:
    def of(name: str = "m", **settings: Any) -> str:
        given = Settings.model_validate({"url": "https://a.example/v1", "dimensions": 8, **settings})
        return RemoteModel(name, given, budget=Unbudgeted(), publisher=heard, clock=clock).fingerprint

    different = [
        of(),
        of("n"),
        of(url="https://b.example/v1"),
        of(url="https://a.example/v2"),
        of(url="https://a.example:444/v1"),
        of(dimensions=9),
        of(query_prefix="q: "),
        of(passage_prefix="q: "),
    ]
    assert len(set(different)) == len(different)
    assert of(url="https://A.example:443/v1/embeddings", batch_texts=3, key=KEY) == of()
    assert of().startswith("m:remote:remote:8:")
    assert make().fingerprint.startswith("hash:remote:remote:64:")


# --- from the loader ------------------------------------------------------------------------------------------------


def test_it_is_a_model_by_name(server: EndpointServer, heard: Heard) -> None:
    loader = Loader(
        EmbedSettings(model="remote:"), stream=heard, remote=Settings(url=server.url, model="hash", max_tokens=99)
    )
    model = loader.get()
    assert model is loader.get("remote:hash")
    assert isinstance(model, Model)
    assert not isinstance(model, CountsTokens)
    assert model.max_tokens == 99
    (state,) = [state for state in loader.states() if state.name == "remote:hash"]
    assert (state.status, state.engine, state.users) == ("ready", "remote", 0)
    model.embed(["one two", "three", "three"])
    (told,) = heard.of(TextsEmbedded)
    assert (told.model, told.texts, told.tokens) == ("remote:hash", 3, 3)
    assert loader.unload("remote:hash") == 0
    assert model.state().status == "absent"
    assert model.embed(["again"]).shape == (1, 64)
    loader.close()


def test_dimensions_of_the_embedding_room_are_asked_for(server: EndpointServer) -> None:
    loader = Loader(EmbedSettings(model="remote:hash", dimensions=16), remote=Settings(url=server.url))
    assert loader.get().embed(["a"]).shape == (1, 16)
    loader.close()


def test_without_an_address_or_a_name_it_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"set remote\.url \(EMBANK_REMOTE__URL\)"):
        Loader(EmbedSettings(model="remote:m")).get()
    with pytest.raises(InvalidInput, match=r"write remote:NAME, or set remote\.model"):
        Loader(EmbedSettings(model="remote:")).get()
    with pytest.raises(InvalidInput, match=r"not by the onnx engine: leave embed\.engine empty"):
        Loader(EmbedSettings(model="remote:m", engine="onnx"), remote=Settings(url="http://localhost")).get()


def test_its_settings_are_a_section_like_any_other() -> None:
    config = load(
        SECTIONS, file=None, environ={"EMBANK_REMOTE__URL": "https://h/v1", "EMBANK_REMOTE__KEY": KEY}, flags={}
    )
    assert config.section("remote").key.get_secret_value() == KEY
    assert KEY not in repr([row for row in config.rows() if row.key.startswith("remote.")])

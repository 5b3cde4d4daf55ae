"""The short way answers as the framework's does, and leaves to it what is not in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.http.serving import Served, serving

from embank.client.schemas import SearchAnswer
from embank.events.kinds import RequestAnswered

TEXTS = {"a": "Rivers carry silt.", "b": "Bread rises.", "é": "Ärger \N{SNOWMAN}"}
BOTH_WAYS = ("application/json", "application/vnd.api+json")
"""The second one is JSON to the framework alone."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("express") / "a.bank") as served:
        documents = [{"id": key, "text": text, "metadata": {"n": 1.5}} for key, text in TEXTS.items()]
        assert served.http.post("/collections/notes/documents", json={"documents": documents}).status_code == 200
        yield served


def _asked(served: Served, kind: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    answer = served.http.post(path, content=body, headers={"content-type": kind, "x-request-id": "one"})
    told = answer.json()
    told.pop("seconds", None)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "one"
    return answer.status_code, told


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/collections/notes/search", b'{"query": "bread", "k": 2, "explain": true, "highlight": true}', 200),
        ("/collections/notes/search", '{"query": "Ärger"}'.encode(), 200),
        ("/collections/notes/search", b'{"query": "\\ud800"}', 400),
        ("/collections/notes/search", b'{"query": "bread", "kk": 2}', 400),
        ("/collections/notes/search", b'{"vector": [NaN, 1]}', 400),
        ("/collections/notes/search", b'{"query": ', 400),
        ("/collections/notes/search", b"", 400),
        ("/collections/none/search", b'{"query": "bread"}', 404),
        ("/v1/embeddings", b'{"model": "hash", "input": ["bread", "silt"]}', 200),
        ("/v1/embeddings", b'{"model": "hash", "input": "bread", "encoding_format": "base64"}', 200),
        ("/v1/embeddings", b'{"model": "other", "input": "bread"}', 404),
        ("/v1/embeddings", b'{"model": "hash", "input": []}', 400),
    ],
)
def test_both_ways_answer_alike(filled: Served, path: str, body: bytes, status: int) -> None:
    short, whole = (_asked(filled, kind, path, body) for kind in BOTH_WAYS)
    for _, told in (short, whole):
        told.pop("explained", None)  # it says how long the steps took
        for hit in told.get("hits", []):
            (hit["explained"] or {}).pop("search", None)  # likewise
    assert short[0] == status, short
    assert short == whole


def test_a_search_is_answered_in_its_form(filled: Served) -> None:
    answer = filled.http.post("/collections/notes/search", json={"query": "bread"}).json()
    assert set(answer) == set(SearchAnswer.model_fields)
    assert answer["hits"][0]["text"] == "Bread rises."
    assert answer["hits"][0]["metadata"] == {"n": 1.5}


def test_both_are_counted_under_their_route(filled: Served) -> None:
    with filled.bank.events.subscribe(kinds=[RequestAnswered]) as heard:
        filled.http.post("/v1/embeddings", json={"model": "hash", "input": "silt"})
        filled.http.post("/collections/notes/search", json={"query": "silt"})
        events = heard.drain(wait_s=10)
        while len(events) < 2:
            events += heard.drain(wait_s=10)
    assert [(event.route, event.status) for event in events if isinstance(event, RequestAnswered)] == [
        ("/v1/embeddings", 200),
        ("/collections/{name}/search", 200),
    ]

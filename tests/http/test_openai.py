"""`/v1/embeddings` and `/v1/models`: OpenAI's own client, and what it can't send."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from tests.http.serving import Served

openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")

TEXTS = ["Rivers carry silt.", "Bread rises.", "A backup is restored."]
EXPECTED = HashModel().embed(TEXTS)


@pytest.fixture
def client(served: Served) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_the_client_of_openai_works_unchanged(client: Any) -> None:
    answer = client.embeddings.create(model="hash", input=TEXTS)  # it asks for base64 by itself
    assert [each.index for each in answer.data] == [0, 1, 2]
    assert np.allclose([each.embedding for each in answer.data], EXPECTED, atol=1e-3)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3 + 2 + 4
    one = client.embeddings.create(model="hash", input=TEXTS[1], encoding_format="float")
    assert np.allclose(one.data[0].embedding, EXPECTED[1], atol=1e-3)
    assert [each.id for each in client.models.list()] == ["hash"]
    assert client.models.retrieve("hash").id == "hash"


def test_base64_is_little_endian_float32(served: Served) -> None:
    asked = {"model": "hash", "input": TEXTS[0]}
    plain = served.http.post("/v1/embeddings", json=asked).json()
    packed = served.http.post("/v1/embeddings", json={**asked, "encoding_format": "base64"}).json()
    row = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert np.array_equal(row, np.asarray(plain["data"][0]["embedding"], np.float32))


def test_dimensions_cut_and_bring_to_length_1(client: Any) -> None:
    answer = client.embeddings.create(model="hash", input=TEXTS[0], dimensions=16)
    wanted = EXPECTED[0][:16] / np.linalg.norm(EXPECTED[0][:16])
    assert np.allclose(answer.data[0].embedding, wanted, atol=1e-3)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="hash", input="x", dimensions=65)
    assert caught.value.param == "dimensions"


def test_errors_have_the_shape_that_its_client_reads(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "hash" in caught.value.message
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "empty string"),
        ([], "empty list"),
        (["fine", ""], "empty item at 1"),
        (["fine", 5], "strings only"),
        ([[1, 2], []], "empty item at 1"),
        ([[1, 2], [-1]], "no list of token ids"),
        ([[1], [True]], "no list of token ids"),
        (5, "must be a string"),
        (None, "must be a string"),
        ({"text": "x"}, "must be a string"),
        (["x"] * 2_049, "at most 2048"),
        ("broken \ud800 text", "surrogate"),
    ],
)
def test_what_can_not_be_embedded_is_refused_by_name(served: Served, given: Any, says: str) -> None:
    import json

    body = json.dumps({"model": "hash", "input": given}).encode()
    answer = served.http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) >= {"message", "type", "param", "code"}


def test_2048_texts_are_taken(served: Served) -> None:
    answer = served.http.post("/v1/embeddings", json={"model": "hash", "input": [f"text {n}" for n in range(2_048)]})
    assert [each["index"] for each in answer.json()["data"]] == list(range(2_048))


def test_tokens_of_a_model_that_can_not_be_read_are_refused(served: Served) -> None:
    answer = served.http.post("/v1/embeddings", json={"model": "hash", "input": [1, 2]})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "tokens_not_read"


def test_many_small_requests_share_few_batches(served: Served) -> None:
    model = HashModel()
    before = served.server.service.embedding.batches
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: _embed(served, f"text number {n}"), range(64)))
    for number, answer in enumerate(answers):
        assert np.allclose(answer, model.embed([f"text number {number}"])[0], atol=1e-3)
    assert served.server.service.embedding.batches - before < 64


def _embed(served: Served, text: str) -> Any:
    answer = served.http.post("/v1/embeddings", json={"model": "hash", "input": text})
    return answer.json()["data"][0]["embedding"]

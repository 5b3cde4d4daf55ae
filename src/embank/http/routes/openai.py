"""`/v1/embeddings` and `/v1/models`, as OpenAI's clients speak."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from embank.client.openai import EmbeddingsAnswer, EmbeddingsAsked, ModelAnswer, ModelsAnswer
from embank.http.errors import Refusal
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service

if TYPE_CHECKING:
    from embank.embed.model import Vectors

router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=ScopedRoute)


@router.post("/embeddings", response_model=EmbeddingsAnswer, openapi_extra=needs("read"))
async def embeddings(request: Request, asked: EmbeddingsAsked) -> Response:
    """Embed texts, or rows of the model's own tokens: at most 2,048 at once."""
    return Response(await embedded(request.app.state.service, asked), media_type="application/json")


async def embedded(service: Service, asked: EmbeddingsAsked) -> bytes:
    """The answer as JSON: an `EmbeddingsAnswer`."""
    _check_model(service, asked.model)
    given: Any = asked.input
    if isinstance(given, str):
        texts = [given]
    elif isinstance(given[0], str):
        texts = given
    else:
        texts = await service.embedding.texts_of([given] if isinstance(given[0], int) else given)
    done = await service.embedding.embed(texts, asked.input_type)
    vectors = done.vectors if asked.dimensions is None else _cut(done.vectors, asked.dimensions)
    rows: list[Any] = [_base64(row) for row in vectors] if asked.encoding_format == "base64" else vectors.tolist()
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": asked.model,
        "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
    }
    return to_json(answer)


@router.get("/models", openapi_extra=needs("read"))
async def models(request: Request) -> ModelsAnswer:
    """The model that texts are embedded with, by each of its names."""
    service: Service = request.app.state.service
    return ModelsAnswer(data=await service.workers.run(_listed, service))


@router.get("/models/{model:path}", openapi_extra=needs("read"))
async def model(request: Request, model: str) -> ModelAnswer:
    """One model, by one of its names."""
    service: Service = request.app.state.service
    _check_model(service, model)
    listed = await service.workers.run(_listed, service)
    return next(each for each in listed if each.id == model)


def _listed(service: Service) -> list[ModelAnswer]:
    names = service.embedding.names()
    state = next((each for each in service.bank.models() if each.name == names[0]), None)
    ready = None if service.model_error else service.bank.engine.models.default()
    return [
        ModelAnswer(
            id=name,
            dimension=None if ready is None else ready.dimension,
            max_tokens=None if ready is None else ready.max_tokens,
            state=None if state is None else str(state),
        )
        for name in names
    ]


def _check_model(service: Service, name: str) -> None:
    names = service.embedding.names()
    if name not in names:
        raise Refusal(
            404,
            "model_not_found",
            f"the model {name[:100]!r} is not served here: there is {', '.join(names)} (further names: "
            f"http.model_names)",
            param="model",
        )


def _cut(vectors: Vectors, dimensions: int) -> Vectors:
    if dimensions > vectors.shape[1]:
        raise Refusal(
            400,
            "invalid_request",
            f"dimensions: the model's vectors have {vectors.shape[1]}, from which {dimensions} can't be cut",
            param="dimensions",
        )
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _base64(row: Vectors) -> str:
    return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode()

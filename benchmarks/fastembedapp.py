"""fastembed behind FastAPI, as who knows both writes it: one session, the threads of FastAPI, orjson for the answer.

Served by uvicorn with uvloop and httptools, in the environment that fastembed was installed into.
"""

import os
from typing import Any

import orjson
from fastapi import FastAPI, Response
from fastembed import TextEmbedding
from pydantic import BaseModel

app = FastAPI()
model: Any = TextEmbedding(
    "sentence-transformers/all-MiniLM-L6-v2", specific_model_path=os.environ["FASTEMBED_FOLDER"], threads=os.cpu_count()
)


class Asked(BaseModel):
    """What OpenAI's clients send."""

    input: str | list[str]
    model: str


@app.post("/v1/embeddings")
def embeddings(asked: Asked) -> Response:
    """In a thread: FastAPI sees to it, since this is no coroutine."""
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    rows = list(model.embed(texts))
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    answer = {"object": "list", "data": data, "model": asked.model, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.get("/live")
def live() -> Response:
    """That it is there."""
    return Response()

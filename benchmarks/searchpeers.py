"""Vector databases that are asked the same questions as Embank: with its passages and its vectors, one a passage.

LanceDB searches vectors and words and fuses by reciprocal ranks, as it does when told no more. Chroma has no search by
words of its own: it answers by vectors.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Ask = Callable[[str, Float32], list[int]]
"""The rows found for a question in words and its vector, best first."""

PASSAGES = 50
"""Asked for, since several of one document may be among them."""


def lancedb(texts: list[str], vectors: Float32) -> Ask | None:
    """None where it is not installed."""
    library = _library("lancedb")
    if library is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="embank-lancedb-")
    rows = [{"row": n, "text": text, "vector": vectors[n]} for n, text in enumerate(texts)]
    table = library.connect(folder.name).create_table("passages", rows)
    table.create_fts_index("text")
    match = importlib.import_module("lancedb.query").MatchQuery

    def ask(text: str, vector: Float32, _kept: object = folder) -> list[int]:
        search = table.search(query_type="hybrid").vector(vector).text(match(text, "text"))
        found: list[dict[str, Any]] = search.distance_type("cosine").limit(PASSAGES).to_list()
        return [each["row"] for each in found]

    return ask


def chroma(texts: list[str], vectors: Float32) -> Ask | None:
    """None where it is not installed."""
    library = _library("chromadb")
    if library is None:
        return None
    client = library.EphemeralClient(library.config.Settings(anonymized_telemetry=False))
    for old in client.list_collections():
        client.delete_collection(old.name)
    collection = client.create_collection("passages", metadata={"hnsw:space": "cosine"})
    for first in range(0, len(texts), 2_000):
        past = min(first + 2_000, len(texts))
        collection.add(
            ids=[str(n) for n in range(first, past)], embeddings=vectors[first:past], documents=texts[first:past]
        )

    def ask(text: str, vector: Float32) -> list[int]:  # noqa: ARG001 -- it has no use for words
        found = collection.query(query_embeddings=[vector], n_results=min(PASSAGES, len(texts)))
        return [int(each) for each in found["ids"][0]]

    return ask


def _library(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None

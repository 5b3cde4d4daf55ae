"""The records that pass from room to room: what a source yields, what a splitter cuts, what a search returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Metadata = Mapping[str, Any]
"""JSON-like: string keys; values are str, int, float, bool, None, or lists and mappings of those."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an identity, as a source yields it and a collection keeps it.

    `origin` is the unit of the source that it came from (a file's path relative to the root); one origin may give many
    documents (`path#part=N`, a docstring each). `None` for documents added by hand.
    """

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document: `text == document.text[start:end]`; offsets count code points."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result. `id` is the document's; `chunk`, `start` and `end` locate the passage `text` in it.

    `score` is higher for better. `scores` names the parts it came from: `dense` is that of the collection's metric (the
    cosine, the inner product, or minus the square of the L2 distance), `lexical` is BM25. A dense search's score is the
    first, a lexical one's the second. A hybrid one's is the weighted mean of the first and of the share of the query's
    words, weighed by how rare they are, that the passage covers: with the cosine between -1 and 1, and comparable
    between queries as far as the cosine is; by ranks (`search.fusion`) it is comparable within one answer only.
    """

    id: str
    score: float
    text: str
    metadata: Metadata
    chunk: int
    start: int
    end: int
    scores: Mapping[str, float] = field(default_factory=dict)
    degraded: bool = False

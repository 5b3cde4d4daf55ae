"""Settings of search."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embank.config import Section

Mode = Literal["hybrid", "dense", "lexical"]


class Settings(Section):
    """How candidates are gathered and weighed."""

    mode: Mode = Field(default="hybrid", description="hybrid, dense (vectors only) or lexical (words only)")
    dense_weight: float = Field(default=0.8, ge=0, le=1, description="weight of the dense score in a hybrid search")
    candidates: int = Field(default=100, ge=1, le=10_000, description="passages each side offers for fusion, at least")
    reranker: str | None = Field(
        default=None, description="what puts the best candidates in order anew: a cross-encoder's folder, or a name"
    )
    rerank_candidates: int = Field(default=50, ge=1, le=1_000, description="documents that the reranker reads, at most")

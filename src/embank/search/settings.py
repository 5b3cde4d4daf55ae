"""Settings of search."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embank.config import Section
from embank.search.weights import Fusion, Method

Mode = Literal["hybrid", "dense", "lexical"]


class Settings(Section):
    """How candidates are gathered and weighed."""

    mode: Mode = Field(default="hybrid", description="hybrid, dense (vectors only) or lexical (words only)")
    fusion: Method = Field(
        default="scores",
        description="how a hybrid search weighs its sides: scores (against each other), coverage (by what each query's "
        "words cover) or ranks (reciprocal)",
    )
    dense_weight: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="weight of the dense side by scores or ranks; unset: 0.8 by scores, 0.5 by ranks",
    )
    candidates: int = Field(default=100, ge=1, le=10_000, description="passages each side offers for fusion, at least")
    reranker: str | None = Field(
        default=None, description="what puts the best candidates in order anew: a cross-encoder's folder, or a name"
    )
    rerank_candidates: int = Field(default=50, ge=1, le=1_000, description="documents that the reranker reads, at most")

    def fused(self) -> Fusion:
        """How a hybrid search fuses, where nothing was fitted for the collection."""
        return Fusion(self.fusion, self.dense_weight)

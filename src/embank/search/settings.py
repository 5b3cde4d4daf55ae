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
    fusion: Method = Field(default="scores", description="what a hybrid search adds up: scores, or reciprocal ranks")
    dense_weight: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="weight of the dense side in a hybrid search, both sides standardised; unset: by what each query's "
        "words cover",
    )
    candidates: int = Field(default=100, ge=1, le=10_000, description="passages each side offers for fusion, at least")

    def fused(self) -> Fusion:
        """How a hybrid search fuses, where nothing was fitted for the collection."""
        return Fusion(self.fusion, self.dense_weight)

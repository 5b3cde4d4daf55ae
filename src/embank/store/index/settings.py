"""Settings of the vector index."""

from __future__ import annotations

from pydantic import Field, field_validator

from embank.config import Section, Size
from embank.registry import INDEXES
from embank.store.index.methods import Method, method
from embank.store.info import Metric


class Settings(Section):
    """Which index a collection gets, and how much it may hold. What is not set is chosen by measuring, or by size."""

    kind: str = Field(
        default="auto", description="auto: measured and chosen; exact: the vectors are scanned; or one kind by name"
    )
    recall_target: float = Field(
        default=0.99, gt=0, le=1, description="auto: recall@10 that the lower bound of the measured one must reach"
    )
    budget: Size = Field(
        default=Size("25%"), description="what one index may hold: 64MB, or a percentage of the memory budget"
    )
    exact_below_rows: int = Field(
        default=20_000, ge=0, description="auto: smaller collections are scanned, which takes a few milliseconds"
    )
    tail_rows: int = Field(
        default=8_192, ge=1, description="vectors that may be in no index yet and are scanned; beyond, it is extended"
    )
    rescored: int | None = Field(
        default=None, ge=1, description="candidates whose exact score is computed, for a search for 10"
    )
    parts: int | None = Field(default=None, ge=1, description="pq, pq-fastscan, ivf: sub-quantisers (M)")
    bits: int | None = Field(default=None, ge=4, le=12, description="pq: bits of each sub-quantiser (nbits)")
    lists: int | None = Field(default=None, ge=1, description="ivf, pq-fastscan: inverted lists (nlist)")
    probes: int | None = Field(default=None, ge=1, description="ivf: lists that a search looks into (nprobe)")
    links: int | None = Field(default=None, ge=2, description="hnsw, chroma, lancedb: links of each vector (M)")
    ef_search: int | None = Field(default=None, ge=1, description="hnsw, chroma, lancedb: breadth of a search")
    chroma_url: str | None = Field(
        default=None, pattern="^https?://", description="chroma: a server's address; without it files beside the bank's"
    )
    chroma_timeout_s: float = Field(default=10.0, gt=0, description="chroma: how long an answer may take")
    trees: int = Field(default=40, ge=1, le=10_000, description="annoy: trees (n_trees)")
    search_k: int = Field(default=0, ge=0, description="annoy: nodes that a search looks at; 0: trees × candidates")
    probe_questions: int = Field(
        default=128, ge=0, description="about new rows, asked of an index when it is extended, to see drift; 0: none"
    )
    threads: int = Field(default=1, ge=1, description="threads that build an index")

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in {"auto", "exact"} and kind not in INDEXES:
            raise ValueError(f"there are auto, exact, {', '.join(INDEXES)}")
        return kind

    def method(self, kind: str, dimension: int, rows: int, *, metric: Metric = "cosine") -> Method:
        """The way of that kind for `rows` vectors compared by `metric`, with the parameters set here."""
        return method(
            kind,
            dimension,
            rows,
            metric=metric,
            parts=self.parts,
            bits=self.bits,
            lists=self.lists,
            probes=self.probes,
            links=self.links,
            ef_search=self.ef_search,
            rescored=self.rescored,
        )

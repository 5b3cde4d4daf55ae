"""Ways to keep vectors for searching, as data: what each is called, holds, needs for training, and can be told."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from embank.errors import InvalidInput
from embank.store.info import Metric

Kind = Literal["flat", "sq8", "pq", "pq-fastscan", "rabitq", "ivf", "hnsw"]

LEAST_TRAINING_ROWS = 4_096
"""16 centroids of 256 vectors each: what a four-bit quantiser needs."""

KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
_RESCORED = {"flat": 10, "sq8": 50, "pq": 200, "pq-fastscan": 200, "rabitq": 200, "ivf": 300, "hnsw": 100}

_ID_BYTES = 8
"""What a vector's number takes in an inverted list. Forms without lists refuse selectors, or are none."""

_SHARED_ROWS = 250_000
_SHARED_LISTS = 4
"""Lists over which codes that are scanned whole are spread from so many vectors on: several threads share a scan.

Of a million MiniLM vectors, two threads, 200 candidates: 1.4 ms in place of 2.2, and half a point more recall, since
codes are of what is left after the nearest of four centroids."""

CENTROID_POINTS = 39
"""FAISS's own mark, below which it warns that a k-means has too little to go by."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way, with every parameter decided.

    `parts`: sub-quantisers of a product quantiser. `bits`: of each of them. `lists`, `probes`: inverted lists, and how
    many of them a search looks into. `links`, `ef_build`, `ef_search`: of the graph. `rescored`: candidates whose
    exact score is computed for a search for 10. `metric`: what the vectors are compared by.
    """

    kind: Kind
    dimension: int
    parts: int = 0
    bits: int = 0
    lists: int = 0
    probes: int = 0
    links: int = 0
    ef_build: int = 0
    ef_search: int = 0
    rescored: int = 200
    metric: Metric = "cosine"

    @property
    def factory(self) -> str:
        """What FAISS's `index_factory` calls it. Inverted lists, be it one, are what makes codes take a selector."""
        return {
            "flat": "Flat",
            "sq8": "SQ8",
            # "np": without polysemous training, a search for bits that only Hamming filters use; it takes minutes.
            "pq": f"IVF1,PQ{self.parts}x{self.bits}np",
            "pq-fastscan": f"IVF{max(self.lists, 1)},PQ{self.parts}x4fs",
            "rabitq": "IVF1,RaBitQfs",
            "ivf": f"IVF{self.lists},PQ{self.parts}x4fs",
            "hnsw": f"HNSW{self.links},SQ8",
        }[self.kind]

    @property
    def name(self) -> str:
        """For people: its form, and how many candidates are rescored."""
        searched = f", {self.probes} probes" if self.kind == "ivf" else ""
        searched = f", ef {self.ef_search}" if self.kind == "hnsw" else searched
        return f"{self.factory}{searched} + {self.rescored}"

    @property
    def row_bytes(self) -> float:
        """Anonymous bytes a vector."""
        return {
            "flat": 4.0 * self.dimension,
            "sq8": float(self.dimension),
            "pq": self.parts * self.bits / 8 + _ID_BYTES,
            "pq-fastscan": self.parts / 2 + _ID_BYTES,
            "rabitq": self.dimension / 8 + 8 + _ID_BYTES,
            "ivf": self.parts / 2 + _ID_BYTES,
            # Twice the links on the lowest layer, 4 bytes each; a level and an offset; a little for the upper layers.
            "hnsw": self.dimension + 8 * self.links + 12 + 8,
        }[self.kind]

    def held_bytes(self, rows: int) -> int:
        """Anonymous bytes over `rows` vectors, with centroids."""
        centroids = 4 * self.dimension * (self.lists + (1 << max(self.bits, 4)))
        return int(rows * self.row_bytes) + centroids

    def saving_bytes(self, rows: int) -> int:  # noqa: ARG002 -- however many they are
        """They are written in pieces of a megabyte."""
        return 0

    @property
    def exhaustive(self) -> bool:
        """Whether a search looks at every vector, so that a filter costs no recall."""
        return self.kind not in {"ivf", "hnsw"}

    @property
    def grows(self) -> bool:
        """Whether codes that were loaded take more vectors: all of FAISS's do."""
        return True

    @property
    def least_rows(self) -> int:
        """Vectors below which it can't be trained."""
        if self.kind in {"flat", "hnsw"}:
            return 1
        return max(LEAST_TRAINING_ROWS, CENTROID_POINTS * self.lists)

    @property
    def wanted_rows(self) -> int:
        """Vectors beyond which training gains nothing worth its memory."""
        if self.kind == "pq":
            return max(256 << self.bits, 2 * LEAST_TRAINING_ROWS)
        return max(self.least_rows, 2 * LEAST_TRAINING_ROWS, 64 * self.lists)

    def check_rows(self, rows: int) -> None:
        """Raise `InvalidInput` where there are too few vectors to train with."""
        if rows < self.least_rows:
            raise InvalidInput(
                f"{self.factory} is trained on at least {self.least_rows:,} vectors, there are {rows:,}",
                least_rows=self.least_rows,
                rows=rows,
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which `Method(**…)` makes it again."""
        return asdict(self)


def method(
    kind: str,
    dimension: int,
    rows: int,
    *,
    parts: int | None = None,
    bits: int | None = None,
    lists: int | None = None,
    probes: int | None = None,
    links: int | None = None,
    ef_search: int | None = None,
    rescored: int | None = None,
    metric: Metric = "cosine",
) -> Method:
    """The way of that kind for `rows` vectors of `dimension`; what is not said is chosen.

    Raises `InvalidInput` for parameters that don't fit each other.
    """
    if kind not in KINDS:
        raise InvalidInput(f"a vector index is one of {', '.join(KINDS)}, not {kind!r}", kind=kind)
    chosen: dict[str, int] = {"rescored": rescored or _RESCORED[kind]}
    if kind in {"pq", "pq-fastscan", "ivf"}:
        chosen["parts"] = _parts(dimension, parts, components=8 if kind == "pq" else 4)
        chosen["bits"] = (bits or 8) if kind == "pq" else 4
    if kind == "ivf":
        chosen["lists"] = lists or _lists(rows)
        chosen["probes"] = min(probes or max(chosen["lists"] // 8, 1), chosen["lists"])
    if kind == "pq-fastscan" and (lists or rows >= _SHARED_ROWS):
        chosen["lists"] = chosen["probes"] = lists or _SHARED_LISTS
    if kind == "hnsw":
        chosen.update(links=links or 32, ef_build=80, ef_search=ef_search or 128)
    return Method(KINDS[kind], dimension, metric=metric, **chosen)


def _parts(dimension: int, wanted: int | None, *, components: int) -> int:
    """Sub-quantisers: as wanted, else the most of at least so many `components` each; they divide the dimension."""
    if wanted is not None:
        if dimension % wanted:
            raise InvalidInput(f"{wanted} parts do not divide {dimension} dimensions", parts=wanted)
        return wanted
    most = max(dimension // components, 1)
    return next(parts for parts in range(most, 0, -1) if dimension % parts == 0)


def _lists(rows: int) -> int:
    """About 1 to 2 times the square root of `rows`, a power of two, and few enough to be trained."""
    most = max(rows // CENTROID_POINTS, 1)
    return int(min(2 ** math.ceil(math.log2(max(math.sqrt(rows), 1))), 2 ** int(math.log2(most))))

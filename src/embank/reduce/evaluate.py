"""What each way of making vectors smaller does to the answers, measured on the collection's own vectors.

The reference is the search over the vectors as they are stored, in float32. A way's recall@k is the share of the
reference's k best that it finds, too; of equally good ones any counts. Its interval comes from drawing queries anew
(percentile bootstrap), so it says how far other queries of this kind would differ, not other kinds of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embank.embed.reduce import Float32, Pca
from embank.reduce.sample import OnProgress, told
from embank.store.codec import Codec
from embank.store.index.protocol import Slots
from embank.store.snapshot import Snapshot

CONFIDENCE = 0.95

_REDRAWN = 1_000
# Scores of one block of passages against all queries.
_SCORES = 1 << 20
_BLOCK_ROWS = 2_048
_TIE = 1e-6


@dataclass(frozen=True, slots=True)
class Way:
    """One way to keep vectors: reduced by `pca`, or cut to the first `dimension`, or neither; stored as `dtype`.

    float32 stands for what is stored now, taken as it is.
    """

    name: str
    dtype: str
    dimension: int
    pca: Pca | None = None

    @property
    def bytes_each(self) -> int:
        return self.dimension * 4 if self.dtype == "float32" else Codec(self.dtype, self.dimension).record.itemsize

    def narrow(self, vectors: Float32) -> Float32:
        """Full vectors, shape (n, width), as this way has them before they are stored."""
        if self.pca is not None:
            return self.pca.apply(vectors)
        if self.dimension == vectors.shape[1]:
            return vectors
        cut = vectors[:, : self.dimension]
        norms = np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return np.asarray(cut / norms, np.float32)

    def stored(self, vectors: Float32) -> Float32:
        """What comes back of full vectors after they were kept this way."""
        narrow = self.narrow(vectors)
        if self.dtype == "float32":
            return narrow
        codec = Codec(self.dtype, self.dimension)
        return codec.decode(codec.encode(narrow))


@dataclass(frozen=True, slots=True)
class Line:
    """How one way did. `bytes_total` is what all passages of the collection take; `explained` is a PCA's share."""

    name: str
    dtype: str
    dimension: int
    bytes_each: int
    bytes_total: int
    recall: float
    recall_low: float
    recall_high: float
    explained: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The table and what it was measured on.

    `fitted_on` vectors fitted the PCA, `searched` other ones were searched; `passages` are all that the collection
    has. `queries` were asked, of the kind that `asked` describes.
    """

    collection: str
    fingerprint: str
    dimension: int
    dtype: str
    passages: int
    fitted_on: int
    searched: int
    queries: int
    asked: str
    k: int
    seed: int
    lines: list[Line] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "confidence": CONFIDENCE}


def working_bytes(ways: int, *, width: int, queries: int, k: int) -> int:
    """Bytes that `judge` holds at most beside the queries: the best of each way, one block in each form, its scores."""
    best = ways * queries * k * 12
    block = _block_rows(queries) * width * 4 * 4
    gathered = _block_rows(queries) * width * 4
    return best + block + gathered + 4 * _SCORES * 4 + _REDRAWN * 8


def judge(
    snapshot: Snapshot,
    slots: Slots,
    queries: Float32,
    ways: Sequence[Way],
    *,
    k: int,
    passages: int,
    seed: int,
    on_progress: OnProgress | None = None,
) -> list[Line]:
    """Search the vectors of `slots` every way at once, in one pass; a line for each of `ways`, in their order.

    `queries`: float32, L2-normalised, shape (n, width). `k` is at most the number of slots.
    """
    ascending = np.sort(slots)
    reference = Way("", "float32", queries.shape[1])
    asked = [way.narrow(queries) for way in (reference, *ways)]
    best = [_Best(len(queries), k) for _ in asked]
    rows = _block_rows(len(queries))
    for first in range(0, len(ascending), rows):
        part = ascending[first : first + rows]
        full = snapshot.vectors(part)
        for way, narrow, found in zip((reference, *ways), asked, best, strict=True):
            found.take(narrow @ way.stored(full).T, part)
        told(on_progress, (first + len(part)) / len(ascending), "searching every way")
    least = best[0].scores.min(axis=1)
    lines = []
    for way, found in zip(ways, best[1:], strict=True):
        hits = _hits(snapshot, queries, found.slots, least)
        low, high = _interval(hits, seed=seed)
        lines.append(
            Line(
                name=way.name,
                dtype=way.dtype,
                dimension=way.dimension,
                bytes_each=way.bytes_each,
                bytes_total=way.bytes_each * passages,
                recall=float(hits.mean()),
                recall_low=low,
                recall_high=high,
                explained=way.pca.explained if way.pca is not None else None,
            )
        )
    return lines


class _Best:
    """The best slots of each query so far, in no order."""

    def __init__(self, queries: int, k: int) -> None:
        self.scores = np.full((queries, k), -np.inf, np.float32)
        self.slots = np.full((queries, k), -1, np.int64)

    def take(self, scores: Float32, slots: Slots) -> None:
        """`scores`: of every query (row) with each of `slots` (column)."""
        k = self.scores.shape[1]
        if scores.shape[1] > k:
            chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores, places = np.take_along_axis(scores, chosen, axis=1), slots[chosen]
        else:
            places = np.broadcast_to(slots, scores.shape)
        both, where = np.hstack((self.scores, scores)), np.hstack((self.slots, places))
        chosen = np.argpartition(-both, k - 1, axis=1)[:, :k]
        self.scores, self.slots = np.take_along_axis(both, chosen, axis=1), np.take_along_axis(where, chosen, axis=1)


def _hits(snapshot: Snapshot, queries: Float32, found: Slots, least: Float32) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Each query's share of found slots that are as good as the reference's k-th best, by their full vectors."""
    k = found.shape[1]
    shares = np.empty(len(queries), np.float64)
    step = max(1, _block_rows(len(queries)) // k)
    for first in range(0, len(queries), step):
        part = found[first : first + step]
        vectors = snapshot.vectors(part.ravel()).reshape(*part.shape, -1)
        scores = np.einsum("qkd,qd->qk", vectors, queries[first : first + step])
        shares[first : first + step] = (scores >= least[first : first + step, np.newaxis] - _TIE).mean(axis=1)
    return shares


def _interval(shares: np.ndarray[Any, np.dtype[np.float64]], *, seed: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    means = [shares[random.integers(len(shares), size=len(shares))].mean() for _ in range(_REDRAWN)]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _block_rows(queries: int) -> int:
    return max(64, min(_BLOCK_ROWS, _SCORES // max(queries, 1)))

"""Fusing two rankings.

By scores, not ranks, by default. A passage's score is the weighted mean of what the metric says and of its *coverage*:
its BM25 as a share of the most that a passage could have for that question, 0 (none of its words) to 1. Theoretical
maxima as the scale follow Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (TOIS 2023).
How much either counts, `weights.py` says.

So a score is comparable between queries as far as those of the metric are: with the cosine it lies between -1 and 1,
0 means nothing in common, and more than 0.5 is seldom by chance. By ranks it says nothing but the order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from embank.search.weights import Fusion, Weights
from embank.store.index.protocol import Float32, Neighbors, Slots

RANK_CONSTANT = 60
"""Of reciprocal rank fusion, as published (Cormack, Clarke and Büttcher, SIGIR 2009)."""

_K1 = 1.2
"""Tantivy's BM25: a word that is there again and again counts 1 + k1 times at most."""

_LEAST_CEILING = 1e-6


@dataclass(frozen=True, slots=True)
class Fused:
    """Candidates of either side, best first: their slots and their scores on each side and together.

    `weights` are those that they were fused with; `None` where nothing was.
    """

    slots: Slots
    dense: Float32
    lexical: Float32
    score: Float32
    weights: Weights | None = None


def candidates(dense: Neighbors, lexical: Neighbors) -> Slots:
    """The slots that either side offers, ascending."""
    return np.union1d(dense.slots, lexical.slots).astype(np.int64)


def ceiling(terms: Iterable[tuple[str, int]], passages: int) -> float:
    """The most that BM25 can be for those words, each with the number of passages that have it, of so many."""
    idf = (math.log1p((max(passages - count, 0) + 0.5) / (count + 0.5)) for _, count in terms)
    return (_K1 + 1) * sum(idf)


def fuse(slots: Slots, dense: Float32, lexical: Neighbors, *, fusion: Fusion, depth: int, ceiling: float) -> Fused:
    """Weigh the two sides over the candidates. `dense` are the exact scores of `slots`, shape (len(slots),).

    A candidate that the lexical side did not offer scored there at most what the last one offered did, if the list
    was full (`depth`); else it has none of the words and scored 0. `ceiling` is the BM25 of full coverage.
    """
    floor = lexical.scores.min() if len(lexical.slots) >= depth else np.float32(0)
    words = np.full(len(slots), floor, np.float32)
    words[np.searchsorted(slots, lexical.slots)] = lexical.scores
    if not len(slots):
        return Fused(slots, dense, words, dense)
    coverage = np.minimum(words / max(ceiling, _LEAST_CEILING), 1).astype(np.float64)
    similar = dense.astype(np.float64)  # squares of some metrics' scores are beyond float32
    deviation = float(similar.std())
    if deviation <= np.finfo(np.float32).eps * np.abs(similar).max():
        deviation = 0.0  # what rounding makes of equal scores
    signals = {"deviation": deviation, "ceiling": ceiling, "coverage": float(coverage.max())}
    weights = fusion.weigh(signals, spread=float(coverage.std()))
    if weights.method == "ranks":
        offered = np.isin(slots, lexical.slots)
        score = weights.dense * _reciprocal(dense) + weights.lexical * _reciprocal(words) * offered
    else:
        score = weights.dense * similar + weights.lexical * coverage
    order = np.lexsort((slots, -score))
    return Fused(slots[order], dense[order], words[order], score[order].astype(np.float32), weights)


def _reciprocal(scores: Float32) -> Float32:
    """1 / (60 + rank), ranks from 1, equal scores in the order that they stand in."""
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return (1 / (RANK_CONSTANT + ranks)).astype(np.float32)

"""Fusing the scores of two rankings.

Scores, not ranks: reciprocal rank fusion was measured to lose 8 points of recall@1 against its better input on one
corpus of real questions, while the sum of z-scores lost to neither input on any of five.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embank.store.index.protocol import Float32, Neighbors, Slots


@dataclass(frozen=True, slots=True)
class Fused:
    """Candidates of either side, best first: their slots and their scores on each side and together."""

    slots: Slots
    dense: Float32
    lexical: Float32
    score: Float32


def candidates(dense: Neighbors, lexical: Neighbors) -> Slots:
    """The slots that either side offers, ascending."""
    return np.union1d(dense.slots, lexical.slots).astype(np.int64)


def fuse(slots: Slots, dense: Float32, lexical: Neighbors, *, dense_weight: float, depth: int) -> Fused:
    """Weigh z-scores over the candidates. `dense` are the exact scores of `slots`, shape (len(slots),).

    A candidate that the lexical side did not offer scored there at most what the last one offered did, if the list
    was full (`depth`); else it has none of the words and scored 0.
    """
    floor = lexical.scores.min() if len(lexical.slots) >= depth else np.float32(0)
    words = np.full(len(slots), floor, np.float32)
    words[np.searchsorted(slots, lexical.slots)] = lexical.scores
    score = dense_weight * _standard(dense) + (1 - dense_weight) * _standard(words)
    order = np.lexsort((slots, -score))
    return Fused(slots[order], dense[order], words[order], score[order].astype(np.float32))


def _standard(scores: Float32) -> Float32:
    """z-scores; all zero where every score is the same."""
    if not len(scores):
        return scores
    deviation = scores.std()
    if deviation <= np.finfo(np.float32).eps * max(1.0, float(np.abs(scores).max())):
        return np.zeros_like(scores)
    standard: Float32 = (scores - scores.mean()) / deviation
    return standard

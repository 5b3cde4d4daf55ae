"""The exact index: a block-wise scan over the mapped vectors. It holds no copy of them."""

from __future__ import annotations

import numpy as np

from embank.store.index.protocol import Capabilities, Filtering, Float32, Mask, Neighbors, Slots
from embank.store.metric import scores as scored
from embank.store.vectors import Rows

BLOCK_ROWS = 2_048
"""3 MB of float32 at 384 dimensions: stays in the second-level cache between conversion and product."""

_GATHER_BELOW = 0.25
"""Where fewer rows of a block are allowed than this share, only they are converted."""


class ExactIndex:
    """Scores of every allowed vector, by the metric of the rows. Its only memory is one block while a search runs."""

    name = "exact"
    capabilities = Capabilities(filters=True, exact_scores=True, recall_floor=1.0)

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    @property
    def rows(self) -> int:
        return len(self._rows)

    def used_bytes(self) -> int:
        return 0

    def search(self, query: Float32, k: int, *, allowed: Mask | None = None, first_slot: int = 0) -> Neighbors:
        """As the protocol says; only slots from `first_slot` on are looked at."""
        scratch = np.empty((min(BLOCK_ROWS, len(self._rows)), self._rows.codec.dimension), np.float32)
        filtering: Filtering | None = None if allowed is None else "before"
        best = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32), filtering)
        decode, metric = self._rows.codec.decode, self._rows.metric
        for first, block in self._rows.blocks(BLOCK_ROWS, first_slot=first_slot):
            if allowed is None:
                places = np.arange(len(block))
                scores = scored(metric, decode(block, scratch), query)
            else:
                places = np.flatnonzero(allowed[first : first + len(block)])
                if len(places) < _GATHER_BELOW * len(block):
                    scores = scored(metric, decode(block[places], scratch), query)
                else:
                    scores = scored(metric, decode(block, scratch), query)[places]
            best = best_of(best, places + first, scores, k)
        return best


def best_of(best: Neighbors, slots: Slots, scores: Float32, k: int) -> Neighbors:
    """The `k` best of both, best first. Later slots lose ties, so that the answer does not depend on the blocks.

    Filtered as the best so far were.
    """
    if len(best.scores) == k:
        above = scores > best.scores[-1]
        slots, scores = slots[above], scores[above]
    if len(scores) > k:  # most can be told apart from the best without being put in order
        good = ~(scores < np.partition(scores, len(scores) - k)[len(scores) - k])
        slots, scores = slots[good], scores[good]
    if not len(slots):
        return best
    slots = np.concatenate((best.slots, slots))
    scores = np.concatenate((best.scores, scores))
    order = np.lexsort((slots, -scores))[:k]
    return Neighbors(slots[order], scores[order], best.filtering)

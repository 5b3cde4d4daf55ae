"""Answers from codes: candidates, their exact scores from the mapped vectors, and the tail that is in no codes yet.

What every kind of codes needs lives here once: rescoring, filters and tombstones, the tail, and the cases in which
looking at the vectors themselves is cheaper or the only way to be right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embank.errors import IndexUnavailable
from embank.store.index.exact import ExactIndex, best_of
from embank.store.index.protocol import Capabilities, Codes, Filtering, Float32, Mask, Neighbors, Slots
from embank.store.vectors import Rows

NARROW_ROWS = 2_048
"""Where a filter leaves so few, all of them are scored: it takes about 2 ms, and nothing can be missed."""

_GRAPH_AND_LIST_SHARE = 0.02
"""Where a filter leaves a smaller share, codes that don't look at everything would miss what is allowed."""

_PER_ANSWER = 4
"""Candidates rescored for each answer beyond the few for which the depth was chosen."""

RECALL_FLOOR = 0.95
"""Recall@10 that codes with rescoring promise on the contract's data."""


class RescoredIndex:
    """Exact scores for the candidates of `codes`, over all of `rows`: those past the codes are scanned. Thread-safe.

    `depth` candidates are rescored, more where more answers are asked for. `exhaustive`: whether the codes look at
    every vector, so that a filter costs them no recall. `failed` is told when the codes can't answer; then everything
    is scanned. Without it `search` raises `IndexUnavailable`.
    """

    def __init__(
        self,
        codes: Codes,
        rows: Rows,
        *,
        depth: int,
        exhaustive: bool = True,
        failed: Callable[[IndexUnavailable], None] | None = None,
    ) -> None:
        self._codes = codes
        self._vectors = rows
        self._depth = depth
        self._exhaustive = exhaustive
        self._failed = failed
        # Codes may be of a later state than this picture of the rows: what lies past it does not exist here.
        self._covered = min(codes.rows, len(rows))

    @property
    def name(self) -> str:
        return self._codes.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(filters=True, exact_scores=True, recall_floor=RECALL_FLOOR)

    @property
    def rows(self) -> int:
        return len(self._vectors)

    @property
    def tail_rows(self) -> int:
        """Vectors that are in no codes yet."""
        return len(self._vectors) - self._covered

    def used_bytes(self) -> int:
        return self._codes.used_bytes()

    def search(self, query: Float32, k: int, *, allowed: Mask | None = None) -> Neighbors:
        exact = ExactIndex(self._vectors)
        left = len(self._vectors) if allowed is None else int(np.count_nonzero(allowed))
        if allowed is not None and left <= NARROW_ROWS:
            return self._scored(np.flatnonzero(allowed), query, k, "before")
        depth = max(self._depth, _PER_ANSWER * k)
        narrow = not self._exhaustive and left < _GRAPH_AND_LIST_SHARE * len(self._vectors)
        if narrow or depth >= self._covered:
            return exact.search(query, k, allowed=allowed)
        try:
            found = self._candidates(query, depth, allowed)
        except IndexUnavailable as error:
            if self._failed is None:
                raise
            self._failed(error)
            return exact.search(query, k, allowed=allowed)
        inside = self._covered if allowed is None else int(np.count_nonzero(allowed[: self._covered]))
        if len(found) < min(k, inside):  # a graph that a filter tore apart, lists that held too few
            return exact.search(query, k, allowed=allowed)
        filtering: Filtering = "within" if self._codes.takes_filters else "after"
        best = self._scored(found, query, k, None if allowed is None else filtering)
        if self._covered == len(self._vectors):
            return best
        tail = exact.search(query, k, allowed=allowed, first_slot=self._covered)
        return best_of(best, tail.slots, tail.scores, k)

    def _candidates(self, query: Float32, depth: int, allowed: Mask | None) -> Slots:
        rows = self._codes.rows
        mask = None if allowed is None else allowed[: self._covered]
        if rows > self._covered:
            mask = np.ones(self._covered, np.bool_) if mask is None else mask
            mask = np.concatenate((mask, np.zeros(rows - self._covered, np.bool_)))
        if mask is None:
            return self._codes.candidates(query, depth)
        if self._codes.takes_filters:
            return self._codes.candidates(query, depth, allowed=mask)
        # As many more as will be filtered away.
        share = max(float(np.count_nonzero(mask)) / rows, 1 / rows)
        found = self._codes.candidates(query, min(int(depth / share) + 1, rows))
        return found[mask[found]]

    def _scored(self, slots: Slots, query: Float32, k: int, filtering: Filtering | None) -> Neighbors:
        nothing = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32), filtering)
        return best_of(nothing, slots, self._vectors.scores(slots, query), k)

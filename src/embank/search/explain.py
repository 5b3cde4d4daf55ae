"""How a search went: measured while it runs, and told in plain values where somebody asks.

`Hit.explained` of each hit has

- `dense`, `lexical`: the side's `score`, and its `rank` among what that side offered, from 1 (`None`: it did not);
- `fused`: the score by which it was put in order among the candidates, and its `rank` there;
- `reranked`: the reranker's score and the `rank` by it, where there is one;
- `search`, the same for all hits: `mode` as answered, `index` (its name, or `exact`; `rows`, and `tail_rows` that it
  lacks and that were scanned), `candidates` of either side and together, and the `depth` they were gathered to,
  `weights` of the sides, `filter` (the `share` of passages that it leaves, and of either side, whether it took hold
  `before`, `within` or `after` the search: `store.index.protocol.Filtering`), `degraded`, `cached`, and `ms`, the
  milliseconds of each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from embank.search.fuse import Fused
from embank.search.query import Query
from embank.store.index.protocol import Neighbors, Slots
from embank.store.snapshot import Snapshot
from embank.system.clock import Clock


class Trace:
    """What one search did. For one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self.dense: Neighbors | None = None
        self.lexical: Neighbors | None = None
        self.found: Fused | None = None
        self.reranked: Fused | None = None
        self.depth = 0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """The time that the block takes counts as that of the step."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self.took(name, self._clock.monotonic() - began)

    def took(self, name: str, seconds: float) -> None:
        """Count so much more time for a step."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def rest(self) -> float:
        """The most that a passage can score that was not gathered."""
        last = [
            None if side is None else float(side.scores[-1]) if len(side.scores) >= self.depth else -math.inf
            for side in (self.dense, self.lexical)
        ]
        dense, lexical = last
        weights = None if self.found is None else self.found.weights
        if dense is None or lexical is None or weights is None:
            return max(each for each in (dense, lexical, -math.inf) if each is not None)
        if weights.method == "ranks":
            return math.inf  # deeper, ranks are other ones
        if dense == lexical == -math.inf:
            return -math.inf
        coverage = max(lexical, 0.0) / max(weights.signals["ceiling"], 1e-6)
        # Where the dense side offered all that there is, what is left would be among it.
        return -math.inf if dense == -math.inf else weights.dense * dense + weights.lexical * min(coverage, 1.0)


def of_search(trace: Trace, query: Query, snapshot: Snapshot) -> dict[str, Any]:
    """What holds for all hits of a search."""
    means = snapshot.means
    passages = snapshot.info.chunks
    found = 0 if trace.found is None else len(trace.found.slots)
    weights = None if trace.found is None else trace.found.weights
    return {
        "mode": query.mode,
        "index": None if means is None else asdict(means),
        "candidates": {
            "dense": 0 if trace.dense is None else len(trace.dense.slots),
            "lexical": 0 if trace.lexical is None else len(trace.lexical.slots),
            "together": found,
            "depth": trace.depth,
        },
        "weights": None if weights is None else asdict(weights),
        "filter": None
        if query.where is None
        else {
            "share": snapshot.open_slots / max(passages, 1),
            "dense": None if trace.dense is None else trace.dense.filtering,
            "lexical": None if trace.lexical is None else trace.lexical.filtering,
        },
        "degraded": snapshot.degraded,
        "cached": False,
        "ms": {name: round(1_000 * seconds, 3) for name, seconds in trace.seconds.items()},
    }


def of_hits(trace: Trace, best: Fused, search: dict[str, Any]) -> list[dict[str, Any]]:
    """What is told of each hit."""
    places = {} if trace.found is None else _ranks(trace.found.slots)
    dense, lexical = (_ranks(None if side is None else side.slots) for side in (trace.dense, trace.lexical))
    again = _ranks(None if trace.reranked is None else trace.reranked.slots)
    told = []
    for place, slot in enumerate(best.slots.tolist()):
        rank = places.get(slot)
        fused = None if trace.found is None or rank is None else _plain(trace.found.score[rank - 1])
        sides: dict[str, Any] = {"fused": {"score": fused, "rank": rank}}
        if trace.reranked is not None:
            sides["reranked"] = {"score": _plain(best.score[place]), "rank": again.get(slot)}
        if trace.dense is not None:
            sides["dense"] = {"score": _plain(best.dense[place]), "rank": dense.get(slot)}
        if trace.lexical is not None:
            sides["lexical"] = {"score": _plain(best.lexical[place]), "rank": lexical.get(slot)}
        told.append({**sides, "search": search})
    return told


def _ranks(slots: Slots | None) -> dict[int, int]:
    return {} if slots is None else {slot: rank for rank, slot in enumerate(slots.tolist(), 1)}


def _plain(score: np.float32) -> float:
    return float(score)

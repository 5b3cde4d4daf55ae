"""How a hybrid search weighs its two sides: what can be set, fitted and stored, and what was chosen for one query.

`Fusion` is plain values: it can be fitted on a user's own pairs, kept as JSON with a collection and handed to `fuse`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

Method = Literal["scores", "coverage", "ranks"]

STANDARD = 0.8
"""The weight of the dense side where scores are fused and none was set: of ten corpora, each left out in turn, it lost
least and gained most (docs/decisions/0007-fusion.md)."""

EVEN = 0.5
"""The weight of the dense side where ranks are fused and none was set: plain reciprocal rank fusion."""

COVERAGE = 4.5
"""Fitted with MiniLM on the development halves of seven corpora; three others it served worse."""

_NO_DEVIATION = 1.0
"""Taken for that of dense scores that are all the same: they tell nothing, and the words alone decide."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What one query was answered with; `dense` + `lexical` is 1.

    A passage's score is `dense` times that of the metric plus `lexical` times its coverage; by `ranks`
    they multiply the reciprocal ranks. `signals` says by name what they were chosen by: `deviation`, the standard
    deviation of the dense scores of the candidates; `ceiling`, the BM25 that full coverage would have; `coverage`, the
    share of it that the best candidate has.
    """

    dense: float
    lexical: float
    method: Method = "scores"
    signals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fusion:
    """How two rankings become one.

    `method`: `scores` weighs the two sides against each other as if both were standardised over the candidates, which
    `dense_weight` (0 to 1, by default 0.8) says how; `ranks` adds 1 / (60 + rank), by default of both sides alike. By
    `coverage`, a passage that covers all of the question's words gains `coverage` standard deviations of the dense
    scores: the weights follow for each query.
    """

    method: Method = "scores"
    dense_weight: float | None = None
    coverage: float = COVERAGE

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"a method of fusion is one of {', '.join(get_args(Method))}, not {self.method!r}")
        if self.dense_weight is not None and not 0 <= self.dense_weight <= 1:
            raise ValueError(f"the dense side's weight is 0 to 1, not {self.dense_weight!r}")
        if not 0 <= self.coverage < math.inf:
            raise ValueError(f"what full coverage is worth must be 0 or more, not {self.coverage!r}")

    def weigh(self, signals: Mapping[str, float], *, spread: float) -> Weights:
        """The weights for a query with those signals; `spread` is the standard deviation of the coverages."""
        weight, deviation = self.dense_weight, signals["deviation"] or _NO_DEVIATION
        if weight is None:
            weight = EVEN if self.method == "ranks" else STANDARD
        if self.method == "ranks":
            dense = weight
        elif self.method == "coverage":
            dense = 1 / (1 + self.coverage * deviation)
        elif weight in {0, 1} or not spread:
            dense = weight
        else:
            odds = weight / (1 - weight) * spread / deviation
            dense = odds / (1 + odds)
        return Weights(dense, 1 - dense, self.method, signals)

    def weighing(self, dense_weight: float | None) -> Fusion:
        """The same with that weight of the dense side; coverage, which has none, gives way to scores."""
        if dense_weight is None:
            return self
        return replace(self, method="scores" if self.method == "coverage" else self.method, dense_weight=dense_weight)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fusion:
        """What `as_dict` made. `ValueError` where it is none."""
        try:
            weight = values["dense_weight"]
            return cls(values["method"], None if weight is None else float(weight), float(values["coverage"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no fusion: {error!r}") from error

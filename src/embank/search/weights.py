"""How a hybrid search weighs its two sides: what can be set, fitted and stored, and what was chosen for one query.

`Fusion` is plain values: it can be fitted on a user's own pairs, kept as JSON with a collection and handed to `fuse`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Method = Literal["scores", "ranks"]

EVEN = 0.5
"""The weight of the dense side where ranks are fused and none was set: plain reciprocal rank fusion."""

COVERAGE = 4.5
"""Fitted with MiniLM on the development halves of seven corpora (docs/decisions/0007-fusion-by-coverage.md): from 3 to
5.5 the hybrid lost at most 0.1 points of recall@1 to the better of its inputs on any of them."""

_NO_DEVIATION = 1.0
"""Taken for that of dense scores that are all the same: they tell nothing, and the words alone decide."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What one query was answered with; `dense` + `lexical` is 1.

    By `scores`, a passage's score is `dense` times that of the metric plus `lexical` times its coverage; by `ranks`
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

    `method`: `scores` adds scores, `ranks` adds 1 / (60 + rank). `coverage` is what a passage gains that covers all
    of the question's words, in standard deviations of the candidates' dense scores: the weights follow for each query.
    `dense_weight`, 0 to 1, is in its place where it is given: that of the dense side against the lexical one, both
    standardised over the candidates; or of the ranks.
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
        if self.method == "ranks":
            dense = EVEN if weight is None else weight
        elif weight is None:
            dense = 1 / (1 + self.coverage * deviation)
        elif weight in {0, 1} or not spread:
            dense = weight
        else:
            odds = weight / (1 - weight) * spread / deviation
            dense = odds / (1 + odds)
        return Weights(dense, 1 - dense, self.method, signals)

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

"""How a hybrid search weighs its two sides: what may be set, fitted and stored, and what was chosen for one query.

`Fusion` is plain values: it can be fitted on a user's own pairs, kept as JSON with a collection and handed to `fuse`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Method = Literal["scores", "ranks"]

EVEN = 0.5
"""The weight of the dense side where ranks are fused and none was set: plain reciprocal rank fusion."""

BIAS = "bias"
COEFFICIENTS: Mapping[str, float] = {BIAS: math.log(0.8 / 0.2)}
"""By the names of `Signals`: what each adds to the log-odds of the dense side's weight."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What one query was answered with: `dense` + `lexical` is 1. `signals` says what they were chosen by, by name."""

    dense: float
    lexical: float
    method: Method = "scores"
    signals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fusion:
    """How two rankings become one.

    `method`: `scores` adds standardised scores, `ranks` adds 1 / (60 + rank). `dense_weight`, 0 to 1, is that of the
    dense side in every query; `None` leaves it to `coefficients` and the signals of each query (`scores`), or makes
    it a half (`ranks`).
    """

    method: Method = "scores"
    dense_weight: float | None = None
    coefficients: Mapping[str, float] = field(default_factory=lambda: dict(COEFFICIENTS))

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"a method of fusion is one of {', '.join(get_args(Method))}, not {self.method!r}")
        if self.dense_weight is not None and not 0 <= self.dense_weight <= 1:
            raise ValueError(f"the dense side's weight is 0 to 1, not {self.dense_weight!r}")
        if not all(math.isfinite(value) for value in self.coefficients.values()):
            raise ValueError("the coefficients of a fusion must be finite")

    def weigh(self, signals: Mapping[str, float]) -> Weights:
        """The weights for a query with those signals, by name; a signal without a coefficient counts for nothing."""
        if self.dense_weight is not None:
            return Weights(self.dense_weight, 1 - self.dense_weight, self.method)
        if self.method == "ranks":
            return Weights(EVEN, 1 - EVEN, self.method)
        odds = self.coefficients.get(BIAS, 0.0)
        odds += sum(self.coefficients.get(name, 0.0) * value for name, value in signals.items())
        dense = 1 / (1 + math.exp(-max(-30.0, min(30.0, odds))))
        return Weights(dense, 1 - dense, self.method, signals)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which `from_dict` reads."""
        return {
            "method": self.method, "dense_weight": self.dense_weight, "coefficients": dict(self.coefficients)
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fusion:
        """What `as_dict` made. `ValueError` where it is none."""
        try:
            weight = values["dense_weight"]
            coefficients = {str(name): float(value) for name, value in values["coefficients"].items()}
            return cls(values["method"], None if weight is None else float(weight), coefficients)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no fusion: {error!r}") from error

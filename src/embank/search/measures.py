"""How good rankings are, by documents that are known to be right; with intervals from the bootstrap.

Relevance is all or nothing, as in `ir-measures`, whose R@k, RR@k and nDCG@k are the same numbers (the tests compare
them): recall is the share of the right documents among the first k, the reciprocal rank is that of the first right one,
0 where none is among the first k, and nDCG discounts the gain of each by the logarithm of its rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

RESAMPLES = 2_000
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions, and its 95 % interval by the percentiles of the bootstrap over the questions."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Values, *, seed: int = 0) -> Estimate:
        """Of the values of single questions, shape (n,), n at least 1. The same every time for the same seed."""
        chance, means = np.random.default_rng(seed), list[Values]()
        block = max(_BLOCK // len(values), 1)
        for first in range(0, RESAMPLES, block):
            drawn = chance.integers(0, len(values), (min(block, RESAMPLES - first), len(values)))
            means.append(values[drawn].mean(axis=1))
        low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
        return cls(float(values.mean()), float(low), float(high))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def names(k: int) -> tuple[str, ...]:
    """What is measured, in the order of `judge`."""
    return ("recall@1", f"recall@{k}", f"MRR@{k}", f"nDCG@{k}") if k > 1 else ("recall@1", "MRR@1", "nDCG@1")


def judge(ranking: Sequence[str], right: Collection[str], k: int) -> dict[str, float]:
    """Each measure of one ranking, best first, of which the first `k` count; `right` is not empty."""
    hits = [place for place, name in enumerate(ranking[:k]) if name in right]
    gain = sum(1 / math.log2(place + 2) for place in hits)
    most = sum(1 / math.log2(place + 2) for place in range(min(len(right), k)))
    return {
        "recall@1": sum(place == 0 for place in hits) / len(right),
        f"recall@{k}": len(hits) / len(right),
        f"MRR@{k}": 1 / (hits[0] + 1) if hits else 0.0,
        f"nDCG@{k}": gain / most,
    }


def table(rankings: Sequence[Sequence[str]], right: Sequence[Collection[str]], k: int) -> dict[str, Values]:
    """Each measure of each question, shape (n,)."""
    judged = [judge(ranking, each, k) for ranking, each in zip(rankings, right, strict=True)]
    return {name: np.array([each[name] for each in judged], np.float64) for name in names(k)}

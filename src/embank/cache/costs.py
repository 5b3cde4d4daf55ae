"""What an entry cost to compute: a byte on a logarithmic scale, and the seconds a token that were measured of late.

A text weighs its tokens, or, where nobody counted them, a quarter of its characters. Where a call's seconds are known
they are shared out by weight; where not, the measured rate stands in, and before anything was measured a nominal one,
which orders entries but is never reported as saved. Not thread-safe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embank.errors import InvalidInput

_LEAST_S = 1e-6
_STEPS = 8
"""A code apart is a factor of 2^(1/8): 9 %; 255 codes reach from a microsecond to an hour."""
_NOMINAL_S = 1e-4
"""A token on two cores with a small model."""
_WEIGHT = 0.1
_MEAN_WEIGHT = 0.001
"""Of one text in the average: it follows the last thousand or so."""

SECONDS = _LEAST_S * np.exp2(np.arange(256) / _STEPS)
"""What each code stands for."""


class Costs:
    """See the module."""

    def __init__(self) -> None:
        self.rate_s: float | None = None
        """Seconds a unit of weight, a moving average; None before the first measurement."""
        self._mean_s: float | None = None

    def weights(self, texts: Sequence[str], tokens: Sequence[int] | None) -> npt.NDArray[np.float64]:
        """Each text's weight, at least 1. Raises `InvalidInput` for counts that don't belong to the texts."""
        if tokens is None:
            return np.maximum(np.fromiter(map(len, texts), np.float64, len(texts)) / 4, 1)
        try:
            counts = np.asarray(tokens, np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"tokens must be counts, one a text: {error}") from error
        if counts.shape != (len(texts),) or not np.isfinite(counts).all() or (counts < 0).any():
            raise InvalidInput(f"tokens must be {len(texts)} counts of 0 or more, one a text", tokens=tokens)
        return np.maximum(counts, 1)

    def measure(self, weights: npt.NDArray[np.float64], seconds: float | None) -> npt.NDArray[np.float64]:
        """Each text's seconds; a measurement is taken into the rate."""
        if seconds is None:
            return weights * (_NOMINAL_S if self.rate_s is None else self.rate_s)
        rate_s = seconds / max(float(weights.sum()), 1.0)
        self.rate_s = rate_s if self.rate_s is None else self.rate_s + _WEIGHT * (rate_s - self.rate_s)
        return weights * rate_s

    def codes(self, seconds: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Each text's code, and its class: doublings over the average before this call, 0 to 3."""
        codes = np.clip(np.rint(np.log2(np.maximum(seconds, _LEAST_S) / _LEAST_S) * _STEPS), 0, 255).astype(np.uint8)
        mean_s = float(seconds.mean())
        usual_s = mean_s if self._mean_s is None else self._mean_s
        # A call of many texts tells more than one of a single text.
        self._mean_s = usual_s + (1 - (1 - _MEAN_WEIGHT) ** len(seconds)) * (mean_s - usual_s)
        doublings = np.log2(np.maximum(seconds, _LEAST_S) / max(usual_s, _LEAST_S))
        return codes, np.clip(np.floor(doublings + 1e-9), 0, 3).astype(np.uint8)

    @property
    def mean_s(self) -> float:
        """Seconds that entries of late took to compute, on average."""
        return _NOMINAL_S if self._mean_s is None else self._mean_s


def cost_code(seconds: float) -> int:
    """The code of a number of seconds."""
    return min(max(round(math.log2(max(seconds, _LEAST_S) / _LEAST_S) * _STEPS), 0), 255)


def check_seconds(seconds: Any) -> None:
    """Raises `InvalidInput` for what can't be a number of seconds."""
    if seconds is not None and not (isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds >= 0):
        raise InvalidInput(f"seconds must be 0 or more, not {seconds!r}", seconds=seconds)

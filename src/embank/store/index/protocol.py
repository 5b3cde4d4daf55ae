"""The protocol of a nearest-neighbour index.

An index knows slots and vectors, nothing else: tombstones, filters, normalisation, rescoring and the choice of an
index live once, above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an index can do, as data. `recall_floor` is the least recall@10 it promises on the contract's data."""

    filters: bool
    exact_scores: bool
    recall_floor: float


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The best slots for one query, best first: `scores` are inner products, ties stand in slot order."""

    slots: Slots
    scores: Float32


@runtime_checkable
class Index(Protocol):
    """Answers over slots [0, `rows`). Thread-safe for searching."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def rows(self) -> int: ...

    def used_bytes(self) -> int:
        """Anonymous bytes it holds."""
        ...

    def search(self, query: Float32, k: int, *, allowed: Mask | None = None) -> Neighbors:
        """The `k` best of the slots for which `allowed` (shape (rows,)) is true; fewer when there are fewer.

        `query` is float32, shape (dimension,).
        """
        ...

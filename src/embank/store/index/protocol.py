"""The protocols of nearest-neighbour search over slots and vectors.

`Codes` are what a library keeps of vectors in memory; they propose candidates. An `Index` answers with exact scores:
by scanning everything, or by rescoring the candidates of codes from the mapped vectors. Tombstones, filters,
rescoring, the exact scores of the collection's metric and the un-indexed tail live once, above the codes; where the
metric is cosine, vectors were normalised before they were stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Write = Callable[[bytes], object]
Read = Callable[[int], bytes]

Filtering = Literal["before", "within", "after"]
"""Where a filter took hold: `before`, what it leaves was all scored; `within`, the index passed over the rest;
`after`, more candidates were asked for, and then filtered."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an index can do, as data. `recall_floor` is the least recall@10 it promises on the contract's data."""

    filters: bool
    exact_scores: bool
    recall_floor: float


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The best slots for one query, best first: `scores` are those of the metric, ties stand in slot order.

    `filtering` is told where there was a filter.
    """

    slots: Slots
    scores: Float32
    filtering: Filtering | None = None


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


class Way(Protocol):
    """One way to keep vectors, with every parameter decided: a frozen dataclass of plain values.

    Equal ways make equal codes. `kind` is the name that settings have for it. `rescored`: candidates whose exact score
    is computed for a search for 10. `exhaustive`: a search looks at every vector, so that a filter costs no recall.
    `least_rows`: vectors below which it can't be trained; `wanted_rows`: beyond which training gains nothing. `grows`:
    codes that were loaded take more vectors; else more vectors mean new codes.
    """

    @property
    def kind(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def rescored(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def exhaustive(self) -> bool: ...

    @property
    def grows(self) -> bool: ...

    @property
    def least_rows(self) -> int: ...

    @property
    def wanted_rows(self) -> int: ...

    def held_bytes(self, rows: int) -> int:
        """Anonymous bytes over `rows` vectors, in this process."""
        ...

    def saving_bytes(self, rows: int) -> int:
        """What `Codes.save` takes for a while beside them."""
        ...

    def check_rows(self, rows: int) -> None:
        """Raise `InvalidInput` where there are too few vectors to train with."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with `kind` among them, from which the backend makes it again."""
        ...


@runtime_checkable
class Codes(Protocol):
    """Vectors of slots [0, `rows`) in a form made for finding candidates.

    Any number of threads may search while nobody adds; adding is for codes that no search knows of yet. A library or
    server that fails, or can't be reached, is an `IndexUnavailable` of whatever was called.
    """

    @property
    def name(self) -> str: ...

    @property
    def method(self) -> Way:
        """How they are made."""
        ...

    @property
    def takes_filters(self) -> bool:
        """Whether `candidates` heeds `allowed`; where not, the caller asks for more and filters."""
        ...

    @property
    def rows(self) -> int: ...

    def used_bytes(self) -> int:
        """Anonymous bytes held."""
        ...

    def add(self, vectors: Float32) -> None:
        """Take in the vectors of the next slots, float32, shape (n, dimension)."""
        ...

    def candidates(self, query: Float32, count: int, *, allowed: Mask | None = None) -> Slots:
        """At most `count` slots that are probably the nearest, the likeliest first, none twice.

        `allowed` has shape (rows,); codes that take no filters are never given one.
        """
        ...

    def error(self, vectors: Float32) -> float | None:
        """By how much codes of these would be off: squares of that over squares of the vectors; `None`: not known."""
        ...

    def save(self, write: Write) -> None:
        """Write them out, piece by piece; or, where they are kept elsewhere, finish that and write how to find them."""
        ...

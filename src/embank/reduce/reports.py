"""What fitting and applying a reduction did, as facts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from embank.reduce.evaluate import Line


@dataclass(frozen=True, slots=True)
class FitReport:
    """A PCA that was fitted and kept, and what it would do.

    `rows` of the collection's `passages` fitted it. `judged` is its line of an evaluation in which one half of them
    fitted and the other was searched; `None` where a half is too small for that. Bytes are those of all passages'
    vectors as `dtype`, now and after. `warning` where the fit is doubtful.
    """

    collection: str
    source: str
    version: str
    width: int
    dimension: int
    dtype: str
    rows: int
    passages: int
    explained: float
    bytes_before: int
    bytes_after: int
    k: int
    queries: int = 0
    asked: str = ""
    judged: Line | None = None
    warning: str = ""

    @property
    def saved(self) -> float:
        """The share of the vectors' bytes that goes."""
        return 1 - self.bytes_after / self.bytes_before if self.bytes_before else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "saved": self.saved}


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What `apply` made. Bytes are those of the vectors of all passages; `into` is the collection that has them."""

    collection: str
    into: str
    fingerprint: str
    replaced: str
    dimension: int
    dtype: str
    documents: int
    passages: int
    bytes_before: int
    bytes_after: int
    seconds: float

    @property
    def saved(self) -> float:
        """The share of the vectors' bytes that went."""
        return 1 - self.bytes_after / self.bytes_before if self.bytes_before else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "saved": self.saved}

"""What the vector index of a collection consists of while it is in use, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embank.errors import IndexUnavailable
from embank.store.index.backend import Home
from embank.store.index.protocol import Codes, Index
from embank.store.index.rescored import RescoredIndex
from embank.store.index.saved import Head
from embank.store.metric import Metric
from embank.store.vectors import Rows


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """Where the index lies and which truth it is derived from (`name` changes with every generation)."""

    path: Path
    name: str
    collection: int
    generation: int
    collection_name: str
    home: Home


@dataclass(frozen=True, slots=True)
class Base:
    """Codes in use, and what is known of them; never changed, only replaced. `kept`: they are on the disk, too."""

    codes: Codes
    head: Head
    kept: bool

    def over(self, rows: Rows, failed: Callable[[Base, IndexUnavailable], None] | None = None) -> Index:
        """The index over a picture of the vectors. `failed` is told of codes that can't answer: all is scanned then.

        Without it, a search raises `IndexUnavailable`.
        """
        method = self.head.method
        return RescoredIndex(
            self.codes,
            rows,
            depth=method.rescored,
            exhaustive=method.exhaustive,
            failed=None if failed is None else lambda error: failed(self, error),
        )


@dataclass(frozen=True, slots=True)
class Probe:
    """What an index did when it was asked about new rows. `recall` is recall@10 with its 95 % interval.

    `at`: seconds since 1970. `of_rows`: of how many rows it was trained, `rows`: how many it covers; `recent_rows`: the
    newest, of which the questions are. `error`: squares of what codes are off by over those of the vectors.
    """

    at: float
    method: str
    of_rows: int
    rows: int
    recent_rows: int
    questions: int
    recall: float
    recall_low: float
    recall_high: float
    error: float | None


@dataclass(frozen=True, slots=True)
class Watched:
    """The probe of an index when it was fresh, and the last one."""

    fresh: Probe
    last: Probe

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """What a collection is searched with. `method` is `None` while its vectors are scanned; `reason` says why."""

    kind: str
    metric: Metric
    method: str | None
    rows: int
    indexed_rows: int
    trained_rows: int
    bytes: int
    limit_bytes: int
    sequence: int
    loaded: bool
    seconds: float
    reason: str | None
    probes: Watched | None = None

    @classmethod
    def of(
        cls,
        head: Head | None,
        *,
        kind: str,
        metric: Metric,
        rows: int,
        limit_bytes: int,
        loaded: bool,
        reason: str | None,
        probes: Watched | None = None,
    ) -> IndexStatus:
        """From the head of what is in use or saved, if anything is."""
        return cls(
            kind=kind,
            metric=metric,
            method=None if head is None else head.method.name,
            rows=rows,
            indexed_rows=0 if head is None else head.rows,
            trained_rows=0 if head is None else head.trained_rows,
            bytes=0 if head is None else head.method.held_bytes(head.rows),
            limit_bytes=limit_bytes,
            sequence=0 if head is None else head.sequence,
            loaded=loaded,
            seconds=0.0 if head is None else head.seconds,
            reason=reason,
            probes=probes,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

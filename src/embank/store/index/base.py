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

    def over(self, rows: Rows, failed: Callable[[Base, IndexUnavailable], None]) -> Index:
        """The index over a picture of the vectors. `failed` is told of codes that can't answer: all is scanned then."""
        method = self.head.method
        return RescoredIndex(
            self.codes,
            rows,
            depth=method.rescored,
            exhaustive=method.exhaustive,
            failed=lambda error: failed(self, error),
        )


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """What a collection is searched with. `method` is `None` while its vectors are scanned; `reason` says why."""

    kind: str
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

    @classmethod
    def of(
        cls, head: Head | None, *, kind: str, rows: int, limit_bytes: int, loaded: bool, reason: str | None
    ) -> IndexStatus:
        """From the head of what is in use or saved, if anything is."""
        return cls(
            kind=kind,
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
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

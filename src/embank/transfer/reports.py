"""What an export and an import have to tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Format = Literal["jsonl", "parquet"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written to `file`. Bytes are those of the file, before compression where it is standard output."""

    collection: str
    file: str
    format: Format
    documents: int
    passages: int
    vectors: int
    fingerprint: str | None
    dtype: str | None
    bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(slots=True)
class ImportReport:
    """What came of the `documents` of a file: added + updated + relabeled + unchanged + duplicates.

    `relabeled` had other metadata only; `duplicates` came again under an id of the same file, the last one stands.
    `vectors` were taken over from the file, byte for byte where `exact`; `embedded` documents were embedded.
    """

    collection: str
    file: str
    dry_run: bool
    fingerprint: str | None
    documents: int = 0
    added: int = 0
    updated: int = 0
    relabeled: int = 0
    unchanged: int = 0
    duplicates: int = 0
    vectors: int = 0
    exact: bool = False
    embedded: int = 0
    commits: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

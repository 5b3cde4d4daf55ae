"""What compactions, purges, checks and backups did, found or would do, as facts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(slots=True)
class CompactReport:
    """What a compaction did, or would do. `outcome`: "compacted", "nothing to do", "would compact" or "under way".

    Bytes are those of vectors and views on the disk; `bytes_after` is estimated where nothing was done.
    `left_bytes` of the replaced files are still there, for somebody reads them: they go with a later change or opening.
    `reserved_bytes` is the memory that was held for a window; `due` says whether the settings ask for a compaction.
    """

    collection: str
    documents: int
    passages: int
    slots_before: int
    slots_after: int
    bytes_before: int
    bytes_after: int
    due: bool
    outcome: str
    copied: int = 0
    left_bytes: int = 0
    reserved_bytes: int = 0
    sequence: int | None = None
    writers_waited_s: float = 0.0
    seconds: float = 0.0

    @property
    def dead(self) -> int:
        """Vectors of passages that are gone."""
        return self.slots_before - self.passages

    @property
    def fraction(self) -> float:
        """How much is copied, 0 to 1."""
        return min(self.copied / self.passages, 1.0) if self.passages else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "dead": self.dead, "fraction": self.fraction}


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What a purge deleted, or would delete: `documents` with their `passages` and `text_bytes`.

    `ids` are the first of them in the order of the rule, a thousand at most. `undated` documents can't be told the time
    of and stay; `changed` ones were written while the purge ran, after it had chosen them, and stay, too. `due` says
    whether the collection should be compacted now.
    """

    collection: str
    rule: str
    dry_run: bool
    documents: int
    passages: int
    text_bytes: int
    remaining: int
    undated: int
    changed: int
    ids: tuple[str, ...]
    due: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(slots=True)
class DropReport:
    """What went with a collection that was dropped, or would go: documents with their passages, and bytes of text.

    `file_bytes` are those of its vectors and views, `database_bytes` those by which `bank.db` shrank. Pages that became
    free in it otherwise, `reusable_bytes`, are used by what is written next. `left`: something is still on the disk,
    and goes when the bank is next opened for writing.
    """

    collection: str
    dry_run: bool
    documents: int
    passages: int
    text_bytes: int
    file_bytes: int
    database_bytes: int = 0
    reusable_bytes: int = 0
    left: bool = False
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a bank that is not as it should be.

    "damaged" is the truth: documents, metadata or vectors. "derived" is a view, which can be made again from the truth.
    `part` is the file or folder in the bank. `ids` are the first of the `affected` documents, a thousand at most; where
    it can't be told which those are, there are none.
    """

    severity: Literal["damaged", "derived"]
    collection: str | None
    part: str
    message: str
    ids: tuple[str, ...] = ()
    affected: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check of a bank read, and what it found. `full` says that indexes and every text were checked, too.

    `unsealed` vectors have no checksum, as a former Embank wrote them.
    """

    path: str
    full: bool
    collections: int
    documents: int
    vectors: int
    unsealed: int
    bytes: int
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def damaged(self) -> bool:
        """Whether the truth is damaged; views alone don't count, for nothing is lost with them."""
        return any(finding.severity == "damaged" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "damaged": self.damaged}


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What was copied from `source` to `target`, where it was read again and checked. Bytes are those of the copy."""

    source: str
    target: str
    collections: int
    documents: int
    vectors: int
    bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

"""The records that pass from room to room: what a source yields, a splitter cuts, a collection keeps, a search returns.

Imports nothing heavy, so that whoever only asks a server for them starts quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from embank.errors import InvalidInput

Metadata = Mapping[str, Any]
"""JSON-like: string keys; values are str, int, float, bool, None, or lists and mappings of those."""

MAX_NAME_CHARACTERS = 128
MAX_LIMIT = 100_000
"""Documents that are listed at once."""
MAX_DEPTH = 1_000
"""Documents that the pages of one search show."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an identity, as a source yields it and a collection keeps it.

    `origin` is the unit of the source that it came from (a file's path relative to the root); one origin may give many
    documents (`path#part=N`, a docstring each). `None` for documents added by hand.
    """

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document: `text == document.text[start:end]`; offsets count code points."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as kept, with its bookkeeping."""

    id: str
    text: str
    metadata: Metadata
    root: str | None
    origin: str | None
    chunks: int
    added: float
    changed: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


Span = tuple[int, int]
"""(start, end) within a text, in code points."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result. `id` is the document's; `chunk`, `start` and `end` locate the passage `text` in it.

    `score` is higher for better. `scores` names the parts it came from: `dense` is that of the collection's metric (the
    cosine, the inner product, or minus the square of the L2 distance), `lexical` is BM25. A dense search's score is the
    first, a lexical one's the second. A hybrid one's is the weighted mean of the first and of the share of the query's
    words, weighed by how rare they are, that the passage covers: with the cosine between -1 and 1, and comparable
    between queries as far as the cosine is; by ranks (`search.fusion`) it is comparable within one answer only.

    What was asked for beside that: `highlights` are the words of `text` that match the question, as (start, end) in
    `text`; in the document they stand `start` further on. `before` and `after` are the text around the passage.
    `explained` says how the hit came about, in plain values: what `embank.search.explain` lists.
    """

    id: str
    score: float
    text: str
    metadata: Metadata
    chunk: int
    start: int
    end: int
    scores: Mapping[str, float] = field(default_factory=dict)
    degraded: bool = False
    highlights: tuple[Span, ...] = ()
    before: str = ""
    after: str = ""
    explained: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the answer. `after` is the cursor with which the next one is asked for; `None`: there is no more."""

    hits: list[Hit]
    after: str | None
    explained: Mapping[str, Any] | None = None


@dataclass(slots=True)
class IngestReport:
    """What a run did. Documents: `seen` = added + updated + relabeled + unchanged + duplicates + those skipped here.

    `relabeled` had other metadata only; `duplicates` came again under an id of this very run, the last one stands;
    `conflicts` would have overwritten another file's document of the same id and were left out. `vanished` are kept
    unless pruned; `surplus` parts of a file that shrank are always removed. `skipped` counts reasons.
    """

    collection: str
    seen: int = 0
    added: int = 0
    updated: int = 0
    relabeled: int = 0
    unchanged: int = 0
    duplicates: int = 0
    conflicts: int = 0
    vanished: int = 0
    pruned: int = 0
    surplus: int = 0
    chunks: int = 0
    commits: int = 0
    bytes_done: int = 0
    bytes_total: int | None = None
    seconds: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def embedded(self) -> int:
        """Documents that were embedded."""
        return self.added + self.updated

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "embedded": self.embedded}


def check_name(name: str) -> str:
    """`name`, if it can be a collection's: 1 to 128 printable characters, no slash, no leading dot."""
    usable = 0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()
    if not usable or "/" in name or name.startswith(".") or name != name.strip():
        raise InvalidInput(
            f"{name!r} can't name a collection: use 1 to {MAX_NAME_CHARACTERS} printable characters, "
            f"no slash, no dot or blank in front"
        )
    return name

"""What happens to collections: writing, re-embedding, reducing, reading."""

from __future__ import annotations

from dataclasses import dataclass

from embank.events.event import Event


@dataclass(frozen=True, slots=True)
class DocumentsCommitted(Event):
    """A group of documents is durable and visible. `sequence` is the collection's change sequence after it."""

    collection: str
    sequence: int
    documents: int
    chunks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DocumentsDeleted(Event):
    """Documents are durably gone from every answer."""

    collection: str
    sequence: int
    documents: int


@dataclass(frozen=True, slots=True)
class IngestProgressed(Event):
    """How far an ingest is, counted since it began. `bytes_total` is None where the source can't tell."""

    collection: str
    seen: int
    embedded: int
    unchanged: int
    skipped: int
    chunks: int
    bytes_done: int
    bytes_total: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ReembedStarted(Event):
    """Vectors of another model began to be made beside those in use, or went on: `remaining` documents lack them."""

    collection: str
    replaced: str | None
    fingerprint: str
    documents: int
    remaining: int


@dataclass(frozen=True, slots=True)
class ReembedProgressed(Event):
    """How far a re-embedding is. `embedded` and `chunks` count since this run of it began."""

    collection: str
    documents: int
    remaining: int
    embedded: int
    chunks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ReembedFinished(Event):
    """The new vectors are in use: from `sequence` on, searches use their model."""

    collection: str
    fingerprint: str
    sequence: int
    documents: int
    chunks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ReembedAbandoned(Event):
    """A re-embedding was given up; the vectors in use stay."""

    collection: str
    fingerprint: str
    remaining: int


@dataclass(frozen=True, slots=True)
class CompactionStarted(Event):
    """The live vectors of a collection began to be copied into a generation without dead ones."""

    collection: str
    slots: int
    passages: int


@dataclass(frozen=True, slots=True)
class CompactionProgressed(Event):
    """How far a compaction is: `copied` of `passages`."""

    collection: str
    copied: int
    passages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CompactionFinished(Event):
    """The compact generation is in use from `sequence` on. Bytes are those of vectors and views on the disk."""

    collection: str
    sequence: int
    slots_before: int
    slots_after: int
    bytes_before: int
    bytes_after: int
    writers_waited_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class CompactionUndone(Event):
    """A compaction was given up and left nothing; `reason` is the kind of error, or "interrupted"."""

    collection: str
    reason: str


@dataclass(frozen=True, slots=True)
class DocumentsPurged(Event):
    """A purge came to its end. `rule` is its rule in words."""

    collection: str
    rule: str
    documents: int
    passages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CollectionDropped(Event):
    """A collection is durably gone from the bank; `bytes` of vectors and views are about to be removed."""

    collection: str
    documents: int
    passages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CollectionExported(Event):
    """A file has one state of a collection, whole and durably; "-" is standard output."""

    collection: str
    file: str
    documents: int
    vectors: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CollectionImported(Event):
    """The documents of an exported file are in a collection, with `vectors` of the file or `embedded` anew."""

    collection: str
    file: str
    documents: int
    vectors: int
    embedded: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ChangeRefused(Event):
    """A protected collection refused an act."""

    collection: str
    act: str


@dataclass(frozen=True, slots=True)
class SourceItemSkipped(Event):
    """A part of a source was left out. `reason` is one of a few words to count by; `detail` is for people."""

    origin: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ViewCaughtUp(Event):
    """A derived view has applied the changes up to `sequence`."""

    collection: str
    view: str
    sequence: int
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class IndexFailed(Event):
    """A vector index could not answer or be opened; its vectors are scanned, exactly, until it works again."""

    collection: str
    index: str
    reason: str


@dataclass(frozen=True, slots=True)
class HotTierRebuilt(Event):
    """The passages of the most accessed documents were copied as of `sequence`. `searched`: "annoy", or "scan"."""

    collection: str
    sequence: int
    documents: int
    rows: int
    bytes: int
    searched: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PcaFitted(Event):
    """A PCA was fitted on `rows` of a collection's vectors and kept. `explained` is the share of variance it keeps."""

    collection: str
    version: str
    width: int
    dimension: int
    rows: int
    explained: float


@dataclass(frozen=True, slots=True)
class CollectionReduced(Event):
    """A collection's vectors were rewritten, in their place or `into` another. Bytes are those of all vectors."""

    collection: str
    into: str
    fingerprint: str
    documents: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class SearchAnswered(Event):
    """A search gave its hits; `cached`: those that were found before, since when nothing changed.

    `degraded`: not all that there is was searched, and the hits say so.
    """

    collection: str
    mode: str
    hits: int
    seconds: float
    cached: bool = False
    degraded: bool = False

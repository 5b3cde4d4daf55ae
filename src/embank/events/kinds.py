"""Everything that happens, one frozen class a kind, named in the past tense.

An event carries facts, in the units its fields name: names, counts, bytes, seconds. Never the text of a document or a
query. Events are cheap to make (a microsecond) and immutable, so that any thread may keep them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all kinds. `at` is wall time in seconds since the epoch: now, unless the publisher's clock says so."""

    at: float = field(default_factory=time.time, kw_only=True)

    @property
    def kind(self) -> str:
        """The class's name."""
        return type(self).__name__


# --- models ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelConversionStarted(Event):
    """A child began to convert a model's published weights to the engine's format."""

    name: str
    precision: str


@dataclass(frozen=True, slots=True)
class ModelConverted(Event):
    """The converted model is in place. `peak_bytes` is the most that the converting child held."""

    name: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class ModelLoadStarted(Event):
    """A model that was absent is being loaded."""

    model: str


@dataclass(frozen=True, slots=True)
class ModelLoadProgressed(Event):
    """A load came further: `fraction` of it, 0 to 1, is done; `step` says in words what it is at."""

    model: str
    fraction: float
    step: str


@dataclass(frozen=True, slots=True)
class ModelLoaded(Event):
    """A model is ready; it holds `bytes`."""

    model: str
    fingerprint: str
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelLoadFailed(Event):
    """A model could not be loaded; `error` is the message."""

    model: str
    error: str


@dataclass(frozen=True, slots=True)
class ModelUnloaded(Event):
    """A model was let go."""

    model: str
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class TextsEmbedded(Event):
    """A call of the model answered. `padded_tokens` counts what was computed, `tokens` what was asked for.

    `truncated` counts distinct texts that were longer than the model takes, and of which the rest was left out.
    """

    model: str
    texts: int
    tokens: int
    padded_tokens: int
    seconds: float
    truncated: int = 0


# --- writing --------------------------------------------------------------------------------------------------------


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


# --- memory ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemoryReleased(Event):
    """A consumer was asked for bytes and gave some."""

    consumer: str
    wanted_bytes: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class RungEntered(Event):
    """Pressure rose to a rung of the ladder. `pressure` is the used part of the room above the floor."""

    rung: str
    pressure: float
    real_bytes: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class RungLeft(Event):
    """Pressure fell below the rung's way down."""

    rung: str
    pressure: float
    real_bytes: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class ActionTaken(Event):
    """The ladder acted; `freed_bytes` was measured after it, not promised by it."""

    rung: str
    action: str
    freed_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ReservationRefused(Event):
    """Work was not begun, since its bytes could not be found."""

    what: str
    wanted_bytes: int
    available_bytes: int


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SearchAnswered(Event):
    """A search gave its hits."""

    collection: str
    mode: str
    hits: int
    seconds: float

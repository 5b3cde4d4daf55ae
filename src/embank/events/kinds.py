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
    """A model is ready; it holds `bytes`. `device` is where it computes: `cpu`, `cuda:0`."""

    model: str
    fingerprint: str
    seconds: float
    bytes: int
    engine: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class ModelLoadFailed(Event):
    """A model could not be loaded; `error` is the message."""

    model: str
    error: str


@dataclass(frozen=True, slots=True)
class ModelIdled(Event):
    """Nobody has used a model for a minute: it stays, and goes first when memory is needed."""

    model: str


@dataclass(frozen=True, slots=True)
class ModelUnloaded(Event):
    """A model was let go. `why`: asked, idle or pressure."""

    model: str
    freed_bytes: int
    why: str = "asked"


@dataclass(frozen=True, slots=True)
class ModelMoved(Event):
    """A loaded model computes elsewhere from now on, or in another precision: then it has another fingerprint."""

    model: str
    fingerprint: str
    was_on: str
    device: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelPullProgressed(Event):
    """A download came further: `bytes_done` of `bytes_total` are here, those of an earlier attempt included."""

    model: str
    file: str
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class ModelPulled(Event):
    """A downloaded model is in place, checked, at the commit `revision`."""

    model: str
    revision: str
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelFilesRemoved(Event):
    """A model's files were removed from the disk. `why`: asked, unused, limit, damaged, superseded or leftover."""

    model: str
    folder: str
    bytes: int
    why: str


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


@dataclass(frozen=True, slots=True)
class RemoteRequestEnded(Event):
    """One attempt at a request to an embeddings endpoint is over; `attempt` counts from 1.

    `outcome` is one word to count by: `answered`; `rate_limited`, `server_error`, `timeout`, `unreachable`, `dropped`
    (which are tried again); `refused`, `redirected`, `too_large`, `garbage`, `wrong_width`, `no_direction`. `status` is
    the HTTP status, None where none came. Bytes are of the bodies.
    """

    model: str
    texts: int
    attempt: int
    outcome: str
    status: int | None
    sent_bytes: int
    received_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """A model's worker process is ready, so many seconds after it was started; it holds `bytes`."""

    pid: int
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class WorkerEnded(Event):
    """A worker process is gone. `peak_bytes` is the most anonymous memory that was seen of it.

    `cause` is closed, load failed, or `recycled:` with growth, age, calls, idle or asked; or, for one that was lost:
    crash, killed (by a SIGKILL that was not ours), memory, hang, garbage, truncated, wrong answer, start.
    """

    pid: int
    cause: str
    detail: str
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class BatchRetried(Event):
    """What a lost worker had been asked is asked of a fresh one; `attempt` counts from 1."""

    cause: str
    attempt: int


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
class MemoryRecovered(Event):
    """A clean-up ended. `trigger`: calls, growth, idle, unload or hand. Bytes are of the process tree, as measured.

    `ok` unless a step of it raised; then `error` says which. Nothing to do is no failure.
    """

    trigger: str
    before_bytes: int
    after_bytes: int
    seconds: float
    ok: bool = True
    error: str = ""


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


# --- reducing -------------------------------------------------------------------------------------------------------


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

"""What happens to models: their files, their lives in memory, the calls they answer."""

from __future__ import annotations

from dataclasses import dataclass

from embank.events.event import Event


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

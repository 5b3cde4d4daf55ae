"""Wire types: what goes over HTTP, in either direction. The server checks by them, the client is typed by them.

What a caller sends refuses unknown fields, so that a typing error is told; what a server answers is read with fields
that a later version adds. Sizes are in bytes, times in seconds, points in time in seconds since the epoch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, StrictBool, StrictFloat, StrictInt


def _whole(text: str) -> str:
    """Refuse half a surrogate pair: JSON can name it, and nothing can store it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair at {error.start} is no character") from error
    return text


StrictStr = Annotated[str, Strict(), AfterValidator(_whole)]
Mode = Literal["hybrid", "dense", "lexical"]
Scope = Literal["read", "write", "admin"]
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]

Where = Annotated[dict[str, Any], Field(examples=[{"year": {"$gte": 2020}}])]
_MOST = 10**308
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)] | Annotated[StrictInt, Field(ge=-_MOST, le=_MOST)]
"""A number that a float can hold."""

MOST_IDS = 10_000
MOST_WAIT_S = 600


class Asked(BaseModel):
    """Base of what a caller sends."""

    # NaN goes over as what it is, for the server to refuse, and not as null.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")


class Answer(BaseModel):
    """Base of what a server answers."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, defer_build=True)


# --- errors ---------------------------------------------------------------------------------------------------------


class ErrorBody(Answer):
    """What went wrong, in the shape that OpenAI's clients read; `fields` are the facts that the message names."""

    message: str
    type: str
    """invalid_request_error, authentication_error, permission_error, not_found_error, conflict_error, overloaded_error
    or server_error."""
    param: str | None = None
    """The part of the request that is wrong, such as `documents.3.text`."""
    code: str | None = None
    """The error's name in snake case."""
    request_id: str | None = None
    fields: dict[str, Any] = {}


class ErrorAnswer(Answer):
    """Every answer whose status is 400 or above."""

    error: ErrorBody


# --- collections ----------------------------------------------------------------------------------------------------


class CollectionAsked(Asked):
    """A collection to be made."""

    name: StrictStr = Field(min_length=1, max_length=128, examples=["notes"])
    metric: Literal["cosine", "dot", "l2"] | None = None
    """What it compares vectors by, for good; cosine unless said."""
    language: StrictStr | None = Field(default=None, max_length=32, examples=["english"])
    """How its words are stemmed from now on: english at first, german …, none, trigrams."""


class CollectionChange(Asked):
    """What can be changed of a collection."""

    protected: StrictBool
    """Whether documents that exist refuse every change; new ones may be added."""


class CollectionAnswer(Answer):
    """What is recorded of a collection."""

    name: str
    documents: int
    chunks: int
    sequence: int
    metric: str
    protected: bool
    dtype: str
    text_bytes: int
    created: float
    changed: float
    fingerprint: str | None = None
    dimension: int | None = None
    model: str | None = None
    slots: int = 0
    """Vectors on the disk, those of passages that are gone included."""
    generation: int = 0
    role: str = ""


class CollectionsAnswer(Answer):
    """All collections, by name."""

    collections: list[CollectionAnswer]


class CountAsked(Asked):
    """Documents to be counted."""

    where: Where


class CountAnswer(Answer):
    """How many documents there are."""

    count: int


class StatsAnswer(Answer):
    """What the bank holds, and its bytes on the disk by part of its folder."""

    documents: int
    chunks: int
    collections: list[CollectionAnswer]
    disk_bytes: dict[str, int]


# --- documents ------------------------------------------------------------------------------------------------------


class DocumentAsked(Asked):
    """A document to be written. Without an id it is known by the hash of its text."""

    text: StrictStr
    id: StrictStr | None = None
    metadata: dict[str, Any] = {}


class UpsertAsked(Asked):
    """Documents to be written, each in the place of the one of its id if there is one."""

    documents: list[DocumentAsked] = Field(min_length=1)
    vectors: list[list[Number]] | None = None
    """The caller's own, one row for each document: they are not embedded."""
    space: StrictStr = "own"
    """What the caller's own vectors are called; vectors of another space don't mix with them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"documents": [{"id": "a1", "text": "Rivers carry silt.", "metadata": {"year": 2024}}]}]
        }
    )


class UpsertAnswer(Answer):
    """What was written, durably and visibly. `relabeled` had other metadata only; `ids` are in the order given.

    `skipped` counts reasons for what was left out, and `samples` are some of that: origin, reason, detail.
    """

    ids: list[str]
    seen: int = 0
    added: int
    updated: int
    relabeled: int
    unchanged: int
    duplicates: int
    conflicts: int = 0
    chunks: int
    commits: int = 0
    seconds: float
    skipped: dict[str, int] = {}
    samples: list[Annotated[list[str], Field(min_length=3, max_length=3)]] = []


class DocumentAnswer(Answer):
    """A document as it is kept."""

    id: str
    text: str
    metadata: dict[str, Any]
    chunks: int
    added: float
    changed: float
    root: str | None = None
    origin: str | None = None


class DocumentsAnswer(Answer):
    """Documents in the order asked for; `next` is what to give as `after` for those behind them."""

    documents: list[DocumentAnswer]
    next: str | None = None


class GetAsked(Asked):
    """Documents by their ids."""

    ids: list[StrictStr] = Field(min_length=1, max_length=MOST_IDS)


class ListAsked(Asked):
    """Documents in the order of their ids."""

    limit: StrictInt = Field(default=100, ge=1, le=10_000)
    after: StrictStr | None = None
    where: Where | None = None


class DeleteAsked(Asked):
    """Documents to be deleted: either by their ids or by a filter."""

    ids: list[StrictStr] | None = Field(default=None, max_length=MOST_IDS)
    where: Where | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["a1"]}, {"where": {"year": {"$lt": 2000}}}]})


class DeleteAnswer(Answer):
    """How many documents went."""

    deleted: int


# --- search ---------------------------------------------------------------------------------------------------------


class SearchAsked(Asked):
    """A question in words, or a vector, or both, or the id of a document to be `like`; see `Collection.search`."""

    query: StrictStr | None = None
    vector: list[Number] | None = None
    like: StrictStr | None = None
    k: StrictInt = Field(default=10, ge=1)
    after: StrictStr | None = None
    """The cursor of the page before."""
    where: Where | None = None
    mode: Mode | None = None
    min_score: Number | None = None
    highlight: StrictBool = False
    neighbors: StrictInt = 0
    explain: StrictBool = False
    per_document: StrictInt = 1
    diversity: Number = 0.0
    rerank: StrictBool = True
    dense_weight: Number | None = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "what do rivers carry?", "k": 5, "where": {"year": {"$gte": 2020}}}]}
    )


class HitAnswer(Answer):
    """One document found, with its best passage: `text` is `document[start:end]`."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]
    chunk: int
    start: int
    end: int
    scores: dict[str, float] = {}
    degraded: bool = False
    highlights: list[tuple[int, int]] = []
    before: str = ""
    after: str = ""
    explained: dict[str, Any] | None = None


class SearchAnswer(Answer):
    """The best documents, best first. `degraded`: not all that there is was searched.

    `after` is the cursor of the next page, where there may be one. `explained` is about the search as a whole, where
    that was asked for.
    """

    hits: list[HitAnswer]
    after: str | None = None
    degraded: bool
    seconds: float
    explained: dict[str, Any] | None = None


# --- long work ------------------------------------------------------------------------------------------------------


class Waiting(Asked):
    """Base of what starts a job: how long the answer may wait for its end."""

    wait_s: Number = Field(default=30, ge=0, le=MOST_WAIT_S)
    """Seconds that the answer waits for the job's end; one that takes longer is answered 202 while it goes on."""


class PurgeAsked(Waiting):
    """Documents to be deleted by age, by number or by a filter; see `Collection.purge`."""

    older_than_s: Number | None = Field(default=None, ge=0)
    keep: StrictInt | None = Field(default=None, ge=0)
    by: StrictStr | None = None
    where: Where | None = None
    dry_run: StrictBool = False

    model_config = ConfigDict(json_schema_extra={"examples": [{"older_than_s": 2_592_000, "dry_run": True}]})


class CompactAsked(Waiting):
    """A compaction; see `Collection.compact`."""

    dry_run: StrictBool = False


class BackupAsked(Waiting):
    """A verified copy of the bank, in the server's own folder of backups (`http.backups`)."""

    name: StrictStr = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", examples=["monday"])


class JobAnswer(Answer):
    """Long work: where it stands, and what came of it. `progress` and `result` have what the work has to tell."""

    id: str
    kind: Literal["import", "index", "purge", "compact", "drop", "backup"]
    collection: str | None
    state: JobState
    created: float
    started: float | None = None
    ended: float | None = None
    progress: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    error: ErrorBody | None = None


class JobsAnswer(Answer):
    """Jobs, the newest first."""

    jobs: list[JobAnswer]

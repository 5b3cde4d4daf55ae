"""Every request that the service takes, as data: what is sent, and what is made of the answer. Pure functions.

    search("notes", "what do rivers carry?", k=5)  ->  Call(POST, /collections/notes/search, …, SearchAnswer)

The clients, sync and async, send what is built here; neither has methods of its own to keep in step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from embank.client import schemas as wire
from embank.client.openai import EmbeddingsAnswer, EmbeddingsAsked, ModelsAnswer
from embank.client.schemas import Asked, Mode

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request. `answer` is what its body is read as. `again`: whether it may be sent again when it may have arrived.

    All but what starts a job are: they say how things shall be, not what is to change.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    answer: type[T]
    body: bytes | None = None
    params: Mapping[str, str] | None = None
    content_type: str = "application/json"
    again: bool = True


def _asked(asked: Asked) -> bytes:
    return asked.model_dump_json(exclude_defaults=True, ensure_ascii=True).encode()


def _of(collection: str, rest: str) -> str:
    return f"/collections/{quote(collection, safe='')}{rest}"


def embed(
    texts: str | Sequence[str],
    *,
    model: str,
    dimensions: int | None = None,
    input_type: Literal["query", "passage"] = "passage",
) -> Call[EmbeddingsAnswer]:
    """Vectors of texts, at most 2,048 at once."""
    given = texts if isinstance(texts, str) else list(texts)
    asked = EmbeddingsAsked(input=given, model=model, dimensions=dimensions, input_type=input_type)
    return Call("POST", "/v1/embeddings", EmbeddingsAnswer, _asked(asked))


def models() -> Call[ModelsAnswer]:
    """The model that texts are embedded with, by each of its names."""
    return Call("GET", "/v1/models", ModelsAnswer)


def collections() -> Call[wire.CollectionsAnswer]:
    """All collections, by name."""
    return Call("GET", "/collections", wire.CollectionsAnswer)


def create(
    collection: str, *, metric: Literal["cosine", "dot", "l2"] | None = None, language: str | None = None
) -> Call[wire.CollectionAnswer]:
    """Make a collection; one that is there already stays as it is, but for the language of its words."""
    asked = wire.CollectionAsked(name=collection, metric=metric, language=language)
    return Call("POST", "/collections", wire.CollectionAnswer, _asked(asked))


def show(collection: str) -> Call[wire.CollectionAnswer]:
    """What is recorded of a collection."""
    return Call("GET", _of(collection, ""), wire.CollectionAnswer)


def protect(collection: str, *, protected: bool = True) -> Call[wire.CollectionAnswer]:
    """Have documents that exist refuse every change, or allow changes again."""
    return Call("PATCH", _of(collection, ""), wire.CollectionAnswer, _asked(wire.CollectionChange(protected=protected)))


def drop(collection: str, *, dry_run: bool = False, wait_s: float = 30) -> Call[wire.JobAnswer]:
    """Delete a collection with all that is in it, as a job."""
    asked = {"dry_run": "1" if dry_run else "0", "wait_s": str(wait_s)}
    return Call("DELETE", _of(collection, ""), wire.JobAnswer, params=asked, again=False)


def count(collection: str) -> Call[wire.CountAnswer]:
    """How many documents a collection has."""
    return Call("GET", _of(collection, "/count"), wire.CountAnswer)


def upsert(
    collection: str,
    documents: Iterable[Mapping[str, Any] | wire.DocumentAsked],
    *,
    vectors: Sequence[Sequence[float]] | None = None,
    space: str = "own",
) -> Call[wire.UpsertAnswer]:
    """Write documents (mappings with text, and optionally id and metadata) by their ids; answered when durable."""
    listed = [wire.DocumentAsked.model_validate(each) for each in documents]
    rows = None if vectors is None else [list(row) for row in vectors]
    asked = wire.UpsertAsked(documents=listed, vectors=rows, space=space)
    return Call("POST", _of(collection, "/documents"), wire.UpsertAnswer, _asked(asked))


def get(collection: str, ids: Sequence[str]) -> Call[wire.DocumentsAnswer]:
    """The documents of these ids, in that order."""
    return Call("POST", _of(collection, "/documents/get"), wire.DocumentsAnswer, _asked(wire.GetAsked(ids=list(ids))))


def page(
    collection: str, *, limit: int = 100, after: str | None = None, where: Mapping[str, Any] | None = None
) -> Call[wire.DocumentsAnswer]:
    """Documents in the order of their ids; `next` of the answer is the `after` of the next page."""
    asked = wire.ListAsked(limit=limit, after=after, where=_filter(where))
    return Call("POST", _of(collection, "/documents/list"), wire.DocumentsAnswer, _asked(asked))


def delete(
    collection: str, ids: Sequence[str] | None = None, *, where: Mapping[str, Any] | None = None
) -> Call[wire.DeleteAnswer]:
    """Delete documents by their ids or by a filter."""
    asked = wire.DeleteAsked(ids=None if ids is None else list(ids), where=_filter(where))
    return Call("POST", _of(collection, "/documents/delete"), wire.DeleteAnswer, _asked(asked))


def search(
    collection: str,
    query: str | None = None,
    *,
    vector: Sequence[float] | None = None,
    like: str | None = None,
    k: int = 10,
    after: str | None = None,
    where: Mapping[str, Any] | None = None,
    mode: Mode | None = None,
    min_score: float | None = None,
    highlight: bool = False,
    neighbors: int = 0,
    explain: bool = False,
    per_document: int = 1,
    diversity: float = 0.0,
    rerank: bool = True,
    dense_weight: float | None = None,
) -> Call[wire.SearchAnswer]:
    """The best documents for a question in words, for a vector, or like a document, best first; `after` pages go on."""
    row = None if vector is None else list(vector)
    asked = wire.SearchAsked(
        query=query,
        vector=row,
        like=like,
        k=k,
        after=after,
        where=_filter(where),
        mode=mode,
        min_score=min_score,
        highlight=highlight,
        neighbors=neighbors,
        explain=explain,
        per_document=per_document,
        diversity=diversity,
        rerank=rerank,
        dense_weight=dense_weight,
    )
    return Call("POST", _of(collection, "/search"), wire.SearchAnswer, _asked(asked))


def import_lines(collection: str, lines: bytes) -> Call[wire.JobAnswer]:
    """Write documents, one JSON object a line, as a job."""
    return Call(
        "POST",
        _of(collection, "/imports"),
        wire.JobAnswer,
        lines,
        content_type="application/x-ndjson",
        again=False,
    )


def purge(
    collection: str,
    *,
    older_than_s: float | None = None,
    keep: int | None = None,
    by: str | None = None,
    where: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    wait_s: float = 30,
) -> Call[wire.JobAnswer]:
    """Delete documents by age, by number or by a filter, as a job."""
    asked = wire.PurgeAsked(
        older_than_s=older_than_s, keep=keep, by=by, where=_filter(where), dry_run=dry_run, wait_s=wait_s
    )
    return Call("POST", _of(collection, "/purge"), wire.JobAnswer, _asked(asked), again=False)


def compact(collection: str, *, dry_run: bool = False, wait_s: float = 30) -> Call[wire.JobAnswer]:
    """Rewrite vectors and words without what was deleted or replaced, as a job."""
    asked = wire.CompactAsked(dry_run=dry_run, wait_s=wait_s)
    return Call("POST", _of(collection, "/compact"), wire.JobAnswer, _asked(asked), again=False)


def backup(name: str, *, wait_s: float = 30) -> Call[wire.JobAnswer]:
    """Copy the bank into the server's folder of backups, as a job."""
    asked = wire.BackupAsked(name=name, wait_s=wait_s)
    return Call("POST", "/backup", wire.JobAnswer, _asked(asked), again=False)


def jobs() -> Call[wire.JobsAnswer]:
    """The jobs that are remembered, the newest first."""
    return Call("GET", "/jobs", wire.JobsAnswer)


def job(id_: str, *, wait_s: float = 0) -> Call[wire.JobAnswer]:
    """A job, at once or when it ended, at most `wait_s` seconds from now."""
    return Call("GET", f"/jobs/{quote(id_, safe='')}", wire.JobAnswer, params={"wait_s": str(wait_s)})


def cancel(id_: str) -> Call[wire.JobAnswer]:
    """Ask a job to end."""
    return Call("POST", f"/jobs/{quote(id_, safe='')}/cancel", wire.JobAnswer)


def stats() -> Call[wire.StatsAnswer]:
    """What the bank holds."""
    return Call("GET", "/stats", wire.StatsAnswer)


def memory() -> Call[wire.MemoryAnswer]:
    """Where the server's memory stands against its budget."""
    return Call("GET", "/memory", wire.MemoryAnswer)


def release() -> Call[wire.ReleaseAnswer]:
    """Have the server give back all memory that can be earned again."""
    return Call("POST", "/memory/release", wire.ReleaseAnswer)


def clear_cache() -> Call[wire.ReleaseAnswer]:
    """Have the server empty its caches."""
    return Call("POST", "/cache/clear", wire.ReleaseAnswer)


def audit(*, limit: int = 100) -> Call[wire.AuditsAnswer]:
    """The latest acts on record, the newest first."""
    return Call("GET", "/audit", wire.AuditsAnswer, params={"limit": str(limit)})


def health(*, deep: bool = False) -> Call[wire.HealthAnswer]:
    """What the server says of its parts; `deep`: having really embedded, written and searched."""
    return Call("GET", "/healthz", wire.HealthAnswer, params={"deep": "1" if deep else "0"})


def _filter(where: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if where is None else dict(where)

"""A bank that a running server holds, as commands use it: each method is a request, and its answer made a report again.

Errors that the server met are raised as they would be here. Work that takes long is a job of the server: it is watched
until it ends, and Ctrl-C ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from pydantic import BaseModel, TypeAdapter

from embank.cli.sending import Sent
from embank.client import calls
from embank.client.outcome import revived
from embank.client.schemas import MOST_IDS, CollectionAnswer
from embank.errors import CollectionNotFound, ServiceError
from embank.events.stream import Stream
from embank.store.info import CollectionInfo

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from embank.caches import CachesSnapshot
    from embank.cli.surface import Where
    from embank.client.calls import Call
    from embank.client.client import Client
    from embank.client.schemas import JobAnswer, SearchAnswer
    from embank.given import DocumentLike
    from embank.memory.snapshot import MemorySnapshot
    from embank.pipeline import IngestReport, OnProgress, OnSkip
    from embank.records import Hit
    from embank.search.pages import Page
    from embank.search.query import Options
    from embank.search.settings import Mode
    from embank.source.protocol import Source
    from embank.store.compact import OnCompactProgress
    from embank.store.dropping import OnDropProgress
    from embank.store.metric import Metric
    from embank.store.protocol import StoredDocument
    from embank.store.purge import OnPurgeProgress
    from embank.store.reports import CompactReport, DropReport, PurgeReport

T = TypeVar("T")
A = TypeVar("A", bound=BaseModel)

_LOOK_S = 0.5
"""How long a look at a job waits for its end."""
_OVER = ("done", "failed", "cancelled")


class ServedBank:
    """`embank.cli.surface.OpenBank` of a server. `events` stays silent: the server's are at its /events."""

    def __init__(self, client: Client, path: Path) -> None:
        self.path = path
        self.events = Stream()
        self._client = client

    def collection(
        self, name: str = "default", *, metric: str | None = None, language: str | None = None
    ) -> ServedCollection:
        if language is not None:
            self.send(calls.create(name, metric=cast("Metric | None", metric), language=language))
        return ServedCollection(self, name, cast("Metric | None", metric))

    def collections(self) -> list[CollectionInfo]:
        return [_info(each) for each in self.send(calls.collections()).collections]

    def drop(self, name: str, *, dry_run: bool = False, on_progress: OnDropProgress | None = None) -> DropReport:
        from embank.store.reports import DropReport

        def tell(progress: Mapping[str, Any]) -> None:
            if on_progress is not None:
                on_progress(progress["fraction"], progress["step"])

        return _made(DropReport, self.done(calls.drop(name, dry_run=dry_run, wait_s=_LOOK_S), tell))

    def memory(self) -> MemorySnapshot:
        from embank.memory.snapshot import MemorySnapshot

        told = self.send(calls.memory()).model_dump()
        pairs = {name: list(told[name].items()) for name in ("consumers", "process_bytes")}
        return _made(MemorySnapshot, {**told, **pairs})

    def cache(self) -> CachesSnapshot:
        from embank.cache.stats import CacheStats
        from embank.cache.weighed import WeighedStats
        from embank.caches import CachesSnapshot

        told = self.send(calls.cache())
        return CachesSnapshot(
            None if told.embeddings is None else _made(CacheStats, told.embeddings),
            None if told.results is None else _made(WeighedStats, told.results),
            told.disk_limit_bytes,
        )

    def clear_cache(self) -> int:
        return self.send(calls.clear_cache()).freed_bytes

    def warm(self) -> None:
        self.send(calls.warm())

    def send(self, call: Call[A]) -> A:
        """The answer to a call; what the server raised is raised here."""
        try:
            return self._client.send(call)
        except ServiceError as error:
            raise _told(error) from error

    def done(self, call: Call[JobAnswer], on_progress: Callable[[Mapping[str, Any]], object]) -> dict[str, Any]:
        """What came of the job that a call begins. `on_progress` is told how far it is, as it tells it."""
        job = self.send(call)
        try:
            while job.state not in _OVER:
                job = self.send(calls.job(job.id, wait_s=_LOOK_S))
                if job.progress:
                    on_progress(job.progress)
        except BaseException:  # Ctrl-C most of all: nobody waits for it any more
            self.send(calls.cancel(job.id))
            ended = self.send(calls.job(job.id, wait_s=_LOOK_S))
            if ended.progress:
                on_progress(ended.progress)
            raise
        if job.error is not None:
            raise _told(ServiceError(job.error.message, code=job.error.code, facts=job.error.fields))
        if job.result is None:
            raise ServiceError("the server was asked to end this before it was done", code=job.state)
        return job.result

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ServedCollection:
    """`embank.cli.surface.OpenCollection` of a server."""

    def __init__(self, bank: ServedBank, name: str, metric: Metric | None) -> None:
        self.name = name
        self._bank = bank
        self._metric = metric

    def add(self, documents: Iterable[DocumentLike]) -> IngestReport:
        from embank.given import document
        from embank.pipeline import IngestReport

        if self._metric is not None:
            self._bank.send(calls.create(self.name, metric=self._metric))
        listed = [document(each) for each in documents]
        plain = [{"id": each.id, "text": each.text, "metadata": dict(each.metadata)} for each in listed]
        told = self._bank.send(calls.upsert(self.name, plain))
        return _made(IngestReport, {**told.model_dump(), "collection": self.name})

    def index(
        self, source: Callable[[OnSkip], Source], *, prune: bool = False, on_progress: OnProgress | None = None
    ) -> IngestReport:
        """Read the source here, and have the server write it. Bytes and seconds of the report are those of both."""
        from embank.pipeline import IngestReport

        started_s = time.monotonic()
        with Sent(source) as sent:
            call = calls.index_lines(self.name, sent, root=sent.root, prune=prune, metric=self._metric)

            def report(told: Mapping[str, Any]) -> IngestReport:
                return _made(IngestReport, {**told, "seconds": time.monotonic() - started_s})

            def tell(progress: Mapping[str, Any]) -> None:
                if on_progress is not None:
                    on_progress(report(progress))

            made = report(self._bank.done(call, tell))
            made.bytes_done, made.bytes_total = sent.bytes_done, sent.bytes_total
            return made

    def search(
        self,
        query: str | None = None,
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        **options: Unpack[Options],
    ) -> list[Hit]:
        return _hits(self._bank.send(calls.search(self.name, query, k=k, where=where, mode=mode, **_plain(options))))

    def like(
        self,
        id: str,  # noqa: A002 -- what it is called everywhere
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        **options: Unpack[Options],
    ) -> list[Hit]:
        return _hits(self._bank.send(calls.search(self.name, like=id, k=k, where=where, mode=mode, **_plain(options))))

    def search_many(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        **options: Unpack[Options],
    ) -> list[list[Hit]]:
        return [self.search(query, k=k, where=where, mode=mode, **options) for query in queries]

    def search_page(
        self,
        query: str | None = None,
        *,
        k: int = 10,
        after: str | None = None,
        where: Where | None = None,
        mode: Mode | None = None,
        like: str | None = None,
        **options: Unpack[Options],
    ) -> Page:
        from embank.search.pages import Page

        told = self._bank.send(
            calls.search(self.name, query, like=like, k=k, after=after, where=where, mode=mode, **_plain(options))
        )
        return Page(_hits(told), told.after, told.explained)

    def get(self, ids: str | Sequence[str]) -> list[StoredDocument]:
        wanted = [ids] if isinstance(ids, str) else list(ids)
        found: list[StoredDocument] = []
        for some in _parts(wanted):
            found += _documents(self._bank.send(calls.get(self.name, some)))
        return found

    def delete(self, ids: str | Sequence[str] | None = None, *, where: Where | None = None) -> int:
        if ids is None:
            return self._bank.send(calls.delete(self.name, where=where)).deleted
        listed = [ids] if isinstance(ids, str) else list(ids)
        return sum(self._bank.send(calls.delete(self.name, some)).deleted for some in _parts(listed))

    def count(self, where: Where | None = None) -> int:
        return self._bank.send(calls.count(self.name, where)).count

    def stats(self) -> CollectionInfo | None:
        try:
            return _info(self._bank.send(calls.show(self.name)))
        except CollectionNotFound:
            return None

    def compact(self, *, dry_run: bool = False, on_progress: OnCompactProgress | None = None) -> CompactReport:
        from embank.store.reports import CompactReport

        def tell(progress: Mapping[str, Any]) -> None:
            if on_progress is not None:
                on_progress(_made(CompactReport, progress))

        return _made(CompactReport, self._bank.done(calls.compact(self.name, dry_run=dry_run, wait_s=_LOOK_S), tell))

    def purge(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        by: str | None = None,
        where: Where | None = None,
        dry_run: bool = False,
        on_progress: OnPurgeProgress | None = None,
    ) -> PurgeReport:
        from embank.store.reports import PurgeReport

        def tell(progress: Mapping[str, Any]) -> None:
            if on_progress is not None:
                on_progress(progress["fraction"], progress["step"])

        call = calls.purge(
            self.name, older_than_s=older_than, keep=keep, by=by, where=where, dry_run=dry_run, wait_s=_LOOK_S
        )
        return _made(PurgeReport, self._bank.done(call, tell))

    # Last, since behind it `list` no longer means the builtin.
    def list(self, *, limit: int = 100, after: str | None = None, where: Where | None = None) -> list[StoredDocument]:
        found: list[StoredDocument] = []
        while len(found) < limit:
            some = self._bank.send(
                calls.page(self.name, limit=min(limit - len(found), MOST_IDS), after=after, where=where)
            )
            found += _documents(some)
            after = some.next
            if after is None:
                break
        return found


def _told(error: ServiceError) -> Exception:
    """What is raised here for what the server said."""
    made = revived(error)
    if made is error and error.fields.get("status") in (401, 403):
        return ServiceError(
            f"{error.message}. A key is made with `embank keys add NAME --scope admin`, and given to commands as "
            f"EMBANK_CLIENT__KEY",
            **error.fields,
        )
    return made


def _made(kind: type[T], told: Mapping[str, Any]) -> T:
    """A record of `kind` from what a server told of it; fields that are not its own are left out."""
    own = [each.name for each in fields(cast("Any", kind))]
    return TypeAdapter(kind).validate_python({name: told[name] for name in own if name in told})


def _info(told: CollectionAnswer) -> CollectionInfo:
    known = told.model_dump()
    return CollectionInfo(**{each.name: known[each.name] for each in fields(CollectionInfo)})


def _hits(told: SearchAnswer) -> list[Hit]:
    from embank.records import Hit

    return [_made(Hit, each.model_dump()) for each in told.hits]


def _documents(told: Any) -> list[StoredDocument]:
    from embank.store.protocol import StoredDocument

    return [_made(StoredDocument, each.model_dump()) for each in told.documents]


def _plain(options: Options) -> dict[str, Any]:
    return dict(options)


def _parts(ids: Sequence[str]) -> list[list[str]]:
    """The ids in as many requests as they need, at least one."""
    return [list(ids[first : first + MOST_IDS]) for first in range(0, max(len(ids), 1), MOST_IDS)]

"""A bank that a running server holds, with the methods of an open one: each is a request, its answer a record again.

    with ServedBank(Client("http://127.0.0.1:8080")) as bank:
        bank.collection("notes").search("what do rivers carry?")

Errors that the server met are raised as they would be here; what only a service can say is a `ServiceError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel

from embank.client import calls
from embank.client.outcome import revived
from embank.errors import ServiceError
from embank.remote import records
from embank.remote.collection import LOOK_S, ServedCollection

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from embank.caches import CachesSnapshot
    from embank.client.calls import Call
    from embank.client.client import Client
    from embank.client.schemas import JobAnswer
    from embank.events.stream import Stream
    from embank.memory.snapshot import MemorySnapshot
    from embank.store.dropping import OnDropProgress
    from embank.store.info import CollectionInfo
    from embank.store.metric import Metric
    from embank.store.reports import DropReport

A = TypeVar("A", bound=BaseModel)

_OVER = ("done", "failed", "cancelled")


class ServedBank:
    """`embank.remote.surface.OpenBank` of a server. Thread-safe. `events` stays silent: a server's are at /events.

    `key_hint` is added to what is said where a key is missing or of the wrong scope.
    """

    def __init__(self, client: Client, *, key_hint: str = "") -> None:
        self._client = client
        self._key_hint = key_hint

    @cached_property
    def events(self) -> Stream:
        from embank.events.stream import Stream  # most commands need none

        return Stream()

    def collection(
        self, name: str = "default", *, metric: str | None = None, language: str | None = None
    ) -> ServedCollection:
        if language is not None:
            self.send(calls.create(name, metric=cast("Metric | None", metric), language=language))
        return ServedCollection(self, name, cast("Metric | None", metric))

    def collections(self) -> list[CollectionInfo]:
        return [records.info(each) for each in self.send(calls.collections()).collections]

    def drop(self, name: str, *, dry_run: bool = False, on_progress: OnDropProgress | None = None) -> DropReport:
        from embank.store.reports import DropReport

        def tell(progress: Mapping[str, Any]) -> None:
            if on_progress is not None:
                on_progress(progress["fraction"], progress["step"])

        return records.made(DropReport, self.done(calls.drop(name, dry_run=dry_run, wait_s=LOOK_S), tell))

    def memory(self) -> MemorySnapshot:
        from embank.memory.snapshot import MemorySnapshot

        told = self.send(calls.memory()).model_dump()
        pairs = {name: list(told[name].items()) for name in ("consumers", "process_bytes")}
        return records.made(MemorySnapshot, {**told, **pairs})

    def cache(self) -> CachesSnapshot:
        from embank.cache.stats import CacheStats
        from embank.cache.weighed import WeighedStats
        from embank.caches import CachesSnapshot

        told = self.send(calls.cache())
        return CachesSnapshot(
            None if told.embeddings is None else records.made(CacheStats, told.embeddings),
            None if told.results is None else records.made(WeighedStats, told.results),
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
            raise self._told(error) from error

    def done(self, call: Call[JobAnswer], on_progress: Callable[[Mapping[str, Any]], object]) -> dict[str, Any]:
        """What came of the job that a call begins. `on_progress` is told how far it is, as it tells it."""
        job = self.send(call)
        try:
            while job.state not in _OVER:
                job = self.send(calls.job(job.id, wait_s=LOOK_S))
                if job.progress:
                    on_progress(job.progress)
        except BaseException:  # Ctrl-C most of all: nobody waits for it any more
            self.send(calls.cancel(job.id))
            ended = self.send(calls.job(job.id, wait_s=LOOK_S))
            if ended.progress:
                on_progress(ended.progress)
            raise
        if job.error is not None:
            raise self._told(ServiceError(job.error.message, code=job.error.code, facts=job.error.fields))
        if job.result is None:
            raise ServiceError("the server was asked to end this before it was done", code=job.state)
        return job.result

    def _told(self, error: ServiceError) -> Exception:
        """What is raised here for what the server said."""
        met = revived(error)
        if met is error and self._key_hint and error.fields.get("status") in (401, 403):
            return ServiceError(f"{error.message}. {self._key_hint}", **error.fields)
        return met

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""A collection of a bank that a running server holds: each method is a request, or several where it is much.

Work that takes long is a job of the server: it is watched until it ends, and Ctrl-C ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from embank.client import calls
from embank.client.schemas import MOST_IDS
from embank.errors import CollectionNotFound, InvalidInput
from embank.records import MAX_LIMIT, Document, Hit, IngestReport, Page, StoredDocument
from embank.remote import records
from embank.remote.sending import Sent

if TYPE_CHECKING:
    from embank.given import DocumentLike
    from embank.pipeline import OnProgress, OnSkip
    from embank.remote.bank import ServedBank
    from embank.remote.surface import Vector, Where
    from embank.search.query import Options
    from embank.search.settings import Mode
    from embank.source.protocol import Source
    from embank.store.compact import OnCompactProgress
    from embank.store.info import CollectionInfo
    from embank.store.metric import Metric
    from embank.store.purge import OnPurgeProgress
    from embank.store.reports import CompactReport, PurgeReport

LOOK_S = 0.5
"""How long a look at a job waits for its end."""
_DOCUMENTS_AT_ONCE = 250
_BYTES_AT_ONCE = 4 << 20
"""Of texts, metadata and vectors in one request: as JSON they are at most three times that, a server takes 16 MB."""
_NUMBER_BYTES = 24


class ServedCollection:
    """`embank.remote.surface.OpenCollection` of a server."""

    def __init__(self, bank: ServedBank, name: str, metric: Metric | None) -> None:
        self.name = name
        self._bank = bank
        self._metric = metric

    def add(
        self, documents: Iterable[DocumentLike], *, vectors: Sequence[Vector] | None = None, space: str = "own"
    ) -> IngestReport:
        """Upsert by id; durable and visible when it returns. What is much goes in several requests, each as a whole."""
        listed = [_sent(each) for each in documents]
        if vectors is not None and len(vectors) != len(listed):
            raise InvalidInput(f"vectors must have one row for each of the {len(listed)} documents, not {len(vectors)}")
        if self._metric is not None:
            self._bank.send(calls.create(self.name, metric=self._metric))
        told = []
        for some in _portions(listed, vectors):
            rows = None if vectors is None else vectors[some]
            told.append(self._bank.send(calls.upsert(self.name, listed[some], vectors=rows, space=space)))
        return records.report(self.name, told)

    def index(
        self, source: Callable[[OnSkip], Source], *, prune: bool = False, on_progress: OnProgress | None = None
    ) -> IngestReport:
        """Read the source here, and have the server write it. Bytes and seconds of the report are those of both."""
        started_s = time.monotonic()
        with Sent(source) as sent:
            call = calls.index_lines(self.name, sent, root=sent.root, prune=prune, metric=self._metric)

            def report(told: Mapping[str, Any]) -> IngestReport:
                return records.made(IngestReport, {**told, "seconds": time.monotonic() - started_s})

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
        vector: Vector | None = None,
        **options: Unpack[Options],
    ) -> list[Hit]:
        return self.search_page(query, k=k, where=where, mode=mode, vector=vector, **options).hits

    def like(
        self,
        id: str,  # noqa: A002 -- what it is called everywhere
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        **options: Unpack[Options],
    ) -> list[Hit]:
        return self.search_page(like=id, k=k, where=where, mode=mode, **options).hits

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
        vector: Vector | None = None,
        like: str | None = None,
        **options: Unpack[Options],
    ) -> Page:
        told = self._bank.send(
            calls.search(
                self.name,
                query,
                vector=vector,
                like=like,
                k=k,
                after=after,
                where=where,
                mode=mode,
                **options,
            )
        )
        return Page(records.hits(told), told.after, told.explained)

    def get(self, ids: str | Sequence[str]) -> list[StoredDocument]:
        wanted = [ids] if isinstance(ids, str) else list(ids)
        found: list[StoredDocument] = []
        for some in _parts(wanted):
            found += records.documents(self._bank.send(calls.get(self.name, some)))
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
            return records.info(self._bank.send(calls.show(self.name)))
        except CollectionNotFound:
            return None

    def compact(self, *, dry_run: bool = False, on_progress: OnCompactProgress | None = None) -> CompactReport:
        from embank.store.reports import CompactReport

        def tell(progress: Mapping[str, Any]) -> None:
            if on_progress is not None:
                on_progress(records.made(CompactReport, progress))

        return records.made(
            CompactReport, self._bank.done(calls.compact(self.name, dry_run=dry_run, wait_s=LOOK_S), tell)
        )

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
            self.name, older_than_s=older_than, keep=keep, by=by, where=where, dry_run=dry_run, wait_s=LOOK_S
        )
        return records.made(PurgeReport, self._bank.done(call, tell))

    # Last, since behind it `list` no longer means the builtin.
    def list(self, *, limit: int = 100, after: str | None = None, where: Where | None = None) -> list[StoredDocument]:
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidInput(f"limit must be a whole number from 1 to {MAX_LIMIT}, not {limit!r}")
        found: list[StoredDocument] = []
        while len(found) < limit:
            some = self._bank.send(
                calls.page(self.name, limit=min(limit - len(found), MOST_IDS), after=after, where=where)
            )
            found += records.documents(some)
            after = some.next
            if after is None:
                break
        return found


def _sent(given: DocumentLike) -> Mapping[str, Any]:
    if isinstance(given, Document):
        return {"id": given.id, "text": given.text, "metadata": dict(given.metadata)}
    return {"text": given} if isinstance(given, str) else given


def _portions(documents: Sequence[Mapping[str, Any]], vectors: Sequence[Vector] | None) -> Iterator[slice]:
    """What goes together in one request."""
    row_bytes = _NUMBER_BYTES * len(vectors[0]) if vectors else 0
    start = size = 0
    for place, each in enumerate(documents):
        own = len(str(each.get("text", "")).encode("utf-8", "replace")) + len(repr(each.get("metadata"))) + row_bytes
        if place > start and (size + own > _BYTES_AT_ONCE or place - start >= _DOCUMENTS_AT_ONCE):
            yield slice(start, place)
            start, size = place, 0
        size += own
    if start < len(documents):
        yield slice(start, len(documents))


def _parts(ids: Sequence[str]) -> list[list[str]]:
    """The ids in as many requests as they need, at least one."""
    return [list(ids[first : first + MOST_IDS]) for first in range(0, max(len(ids), 1), MOST_IDS)]

"""One collection of a local bank: changes as whole batches, and pictures of its state for searching."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Unpack

from embank.errors import EmbankError, MetricMismatch, StorageFailed, StorageFull, StoreError
from embank.events.kinds import DocumentsCommitted, DocumentsDeleted
from embank.store import audit, collections, documents, wording
from embank.store.codec import Float32, Stored
from embank.store.collections import Made, Row
from embank.store.compact import Compactor, OnCompactProgress, undo
from embank.store.dropping import Dropper, OnDropProgress
from embank.store.generation import Generation, OpenGenerations
from embank.store.hot.hot import HotTier
from embank.store.index.handle import CollectionIndex
from embank.store.index.view import VectorView
from embank.store.metric import Metric
from embank.store.predicate import compile_where
from embank.store.presence import Presence
from embank.store.protocol import Batch, CollectionInfo, Known, Reembedding, Space, StoredDocument
from embank.store.purge import OnPurgeProgress, Purger
from embank.store.reports import CompactReport, PurgeReport
from embank.store.retention import Rule
from embank.store.shadow import Shadow, Shadows
from embank.store.shared import Shared
from embank.store.snapshot import Snapshot
from embank.store.states import States
from embank.store.sweep import Sweep
from embank.store.views import LexicalView
from embank.store.where import parse
from embank.system.log import get_logger

_log = get_logger(__name__)

_CLOSING_LAG_ROWS = 256


class StoredCollection:
    """A collection of an open bank. Thread-safe. It may not exist yet: then it is empty."""

    def __init__(self, shared: Shared, name: str) -> None:
        self.name = name
        self._shared = shared
        self._database = shared.database
        self._presence = Presence(shared, name)
        self._generations = OpenGenerations(shared)
        self._shadows = Shadows(shared, name, self._generations)
        self._written = False
        self._wanted: Metric | None = None
        self.hot = HotTier(
            name,
            partial(self.snapshot, lexical=False),
            shared.hot_place,
            shared.accesses(name),
            settings=shared.hot,
            read_only=shared.database.read_only,
            files=shared.files,
            clock=shared.clock,
            stream=shared.stream,
            governor=shared.governor,
        )
        self._states = States(shared, name, self._generations, hot=self.hot, wanted=lambda: self._wanted)

    # --- what there is ---

    def want(self, metric: Metric) -> None:
        """Have it compare vectors by `metric`, from its first row on; `MetricMismatch` where it does otherwise.

        Also where others here want another while it has no row yet.
        """
        if self._wanted not in (None, metric):
            raise MetricMismatch(
                f"collection {self.name!r} is to compare vectors by {self._wanted}, as it was opened here before, not "
                f"by {metric}",
                stored=self._wanted,
                offered=metric,
            )
        info = self.info()
        if info is not None:
            collections.check_metric(info, metric)
        self._wanted = metric

    @property
    def metric(self) -> Metric:
        """What it compares vectors by, or will."""
        info = self.info()
        return (self._wanted or "cosine") if info is None else info.metric

    def info(self) -> CollectionInfo | None:
        """What is recorded of it; `None` before the first document. One row is read, whatever the size."""
        with self._existing() as (_, row):
            return None if row is None else row.info

    def known(self, ids: Iterable[str]) -> dict[str, Known]:
        """What is held under each of `ids`."""
        with self._existing() as (connection, row):
            return {} if row is None else documents.known(connection, row, ids)

    def get(self, ids: Sequence[str]) -> list[StoredDocument]:
        """The documents of `ids` that exist, in that order."""
        with self._existing() as (connection, row):
            return [] if row is None else documents.fetch(connection, row, ids)

    def listing(
        self, *, limit: int, after: str | None = None, where: Mapping[str, Any] | None = None
    ) -> list[StoredDocument]:
        """At most `limit` documents behind the id `after`, in the order of ids."""
        predicate = None if where is None else compile_where(where)
        with self._existing() as (connection, row):
            if row is None:
                return []
            return documents.listing(connection, row, limit=limit, after=after, where=predicate)

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """How many documents there are, or match. Without a filter one row is read, whatever the size."""
        predicate = None if where is None else compile_where(where)
        with self._existing() as (connection, row):
            if row is None or predicate is None:
                return 0 if row is None else row.info.documents
            return documents.count(connection, row, predicate)

    # --- changes ---

    def commit(self, batch: Batch, space: Space | None) -> int:
        """Write a batch, whole and durably, and return the sequence it got. `space` is that of `batch.vectors`."""
        clock = self._shared.clock
        now, started = clock.now(), clock.monotonic()
        sums: list[int] = []
        with self._database.changing() as writer:
            row = self._ensure(writer, now)
            collections.check_metric(row.info, batch.metric)
            self._refuse_if_protected(row, _touched(batch))
            if len(batch.vectors):
                if space is None:
                    raise StoreError("a batch with vectors must say which space they belong to")
                if row.info.fingerprint != space.fingerprint:
                    row = self._settled(row, space)
                with self._generations.using(row) as generation:
                    sums = self._append(generation, row, batch.vectors)
            with self._database.transaction() as connection:
                sequence = self._write(connection, row, batch, sums, now)
        self._written = True
        self._shadows.tidy(only_known=True)
        count, seconds = len(batch.upserts) + len(batch.relabeled), clock.monotonic() - started
        self._shared.stream.publish(DocumentsCommitted(self.name, sequence, count, len(batch.vectors), seconds))
        return sequence

    def ensure(self, **made: Unpack[Made]) -> CollectionInfo:
        """Make the collection where there is none, so; what is recorded of it."""
        with self._database.changing() as writer:
            return self._ensure(writer, self._shared.clock.now(), **made).info

    def check_changeable(self, ids: Sequence[str]) -> None:
        """Raise `ProtectedCollectionError` where the collection is protected and has any of `ids`."""
        with self._existing() as (_, row):
            if row is not None:
                self._refuse_if_protected(row, ids)

    def on_record(self, act: str, number: int | None = None, **detail: Any) -> int:
        """Write a row of the audit for an act of several commits, or let the row `number` say what is done by now."""
        with self._database.transaction() as connection:
            if number is not None:
                audit.amend(connection, number, **detail)
                return number
            return audit.record(connection, act, self.name, at=self._shared.clock.now(), **detail)

    def delete(self, ids: Iterable[str], *, act: str = "delete", where: Mapping[str, Any] | None = None) -> int:
        """Delete the documents of `ids`, or those for which `where` holds; return how many there were. On record."""
        predicate = None if where is None else compile_where(where)
        now = self._shared.clock.now()
        with self._database.transaction() as connection:
            row = self._presence.find(connection)
            if row is None:
                return 0
            if row.info.protected:
                raise self._presence.refused(row, "delete")
            doomed = list(ids) if predicate is None else documents.matching_ids(connection, row.key, predicate)
            gone, chunks, text_bytes = documents.remove(connection, row, doomed, sequence=row.sequence + 1)
            if not gone:
                return 0
            sequence = collections.advance(
                connection, row, slots=0, documents=-gone, chunks=-chunks, text_bytes=-text_bytes, now=now
            )
            detail = {"where": dict(where)} if where is not None else {"first_ids": doomed[:20]}
            audit.record(connection, act, self.name, at=now, documents=gone, chunks=chunks, sequence=sequence, **detail)
        self._shared.stream.publish(DocumentsDeleted(collection=self.name, sequence=sequence, documents=gone))
        return gone

    def purge(self, rule: Rule, *, dry_run: bool = False, on_progress: OnPurgeProgress | None = None) -> PurgeReport:
        """Delete the documents that `rule` says, in steps; with `dry_run` only tell which those are. On record."""
        self._presence.check()
        purger = Purger(self._shared, self.name, rule, refused=self._presence.refused, on_progress=on_progress)
        return purger.run(dry_run=dry_run)

    def protect(self, *, protected: bool) -> None:
        """Refuse, or allow again, every change of existing documents. On record."""
        now = self._shared.clock.now()
        with self._database.changing() as writer:
            row = self._ensure(writer, now)
            with self._database.transaction() as connection:
                connection.execute("UPDATE collections SET protected = ? WHERE id = ?", (int(protected), row.key))
                audit.record(connection, "protect" if protected else "unprotect", self.name, at=now)

    def close(self) -> None:
        """Close files and views, which are brought up to date first if readers would find them far behind."""
        if self._written:
            try:
                self.catch_up(lag_rows=_CLOSING_LAG_ROWS, index=False)
                self.index.refresh()
            except (EmbankError, OSError) as error:  # nothing is lost by it: whoever opens the bank next catches up
                _log.warning("the views of %r lag behind: %s", self.name, error)
        self.hot.close()
        self._generations.close()

    # --- searching ---

    @contextmanager
    def snapshot(self, *, where: Mapping[str, Any] | None = None, lexical: bool = True) -> Iterator[Snapshot]:
        """One consistent state to search: documents, vectors, tombstones and words of the same sequence."""
        self._presence.check()
        condition = None if where is None else parse(where)
        with self._states.now(condition, lexical=lexical) as snapshot:
            yield snapshot

    def sweep(self, root: str) -> Sweep:
        """Watch which documents a run over the source `root` gives, to tell afterwards which are gone."""
        return Sweep(self._database, self.name, root)

    def catch_up(self, *, lag_rows: int | None = None, index: bool = True) -> None:
        """Bring the lexical view up to date if it lags by `lag_rows` passages, or as many as the settings allow.

        Where the vector index is due, it is brought up to date in the background, unless `index` is false. What is
        written is durable before: where the disk is full or fails, the view catches up with the next call or search.
        """
        allowed = self._shared.settings.lexical_rows if lag_rows is None else lag_rows
        try:
            self._catch_up(allowed, index=index)
        except (StorageFull, StorageFailed) as error:
            _log.warning("the lexical view of %r lags behind: %s", self.name, error)

    def _catch_up(self, allowed: int, *, index: bool) -> None:
        with self._existing() as (connection, row):
            generation = self._generations.enter(row) if row is not None and row.slots else None
            if row is None or generation is None:  # nothing there, or replaced this moment by one that is up to date
                return
            try:
                if index:
                    generation.vector_view(row).wake(row)
                view = generation.view(row)
                if view.lag_rows(row) >= allowed:
                    view.picture(row, connection)
            finally:
                self._generations.leave(generation)

    @property
    def index(self) -> CollectionIndex:
        """What its vectors are searched with."""
        return CollectionIndex(self._vector_view)

    def writer_view(self) -> LexicalView | None:
        """The lexical view where one is open, for those who account for its memory."""
        return self._generations.latest_view()

    # --- another generation ---

    def reembedding(self) -> Reembedding | None:
        """The re-embedding that is under way or was interrupted; `None` where there is none."""
        self._presence.check()
        return self._shadows.state()

    def check_reembedding(self) -> None:
        """Raise what `shadow` would for a collection that can't be re-embedded, before a model is loaded for it."""
        self._presence.check()
        self._shadows.check()

    @contextmanager
    def shadow(self, space: Space, *, dtype: str | None = None) -> Iterator[Shadow]:
        """A generation of vectors of `space`, to be filled beside the one in use and put in its place.

        Begun, or the one that is there already. Raises `FingerprintMismatch` when that is of another space,
        `ProtectedCollectionError`, `BankReadOnly`, `CollectionNotFound`, and `StoreError` while another thread fills
        it. `dtype` is how the vectors are stored, by default as they are now.
        """
        self._presence.check()
        with self._shadows.open(space, dtype=dtype) as shadow:
            yield shadow

    def abandon_reembedding(self) -> Reembedding | None:
        """Throw away a generation that is not filled yet; what it was. On record."""
        return self._shadows.abandon()

    def compact(self, *, dry_run: bool = False, on_progress: OnCompactProgress | None = None) -> CompactReport:
        """Copy what is alive into a generation without dead vectors, and put it in use; `Compactor.run` has the rules.

        With `dry_run` only tell what there is to do.
        """
        self._presence.check()
        compactor = Compactor(self._shared, self.name, self._generations, self._shadows, on_progress=on_progress)
        return compactor.plan() if dry_run else compactor.run()

    def dropper(self, on_progress: OnDropProgress | None = None) -> Dropper:
        """What drops it, for the store that gave it out."""
        return Dropper(
            self._shared, self._presence, self._generations, self._shadows, self.hot, on_progress=on_progress
        )

    def undo_compaction(self) -> None:
        """Give up a compaction that a kill cut short. To be called before anything else works with the collection."""
        undo(self._shared, self.name)

    def tidy(self) -> None:
        """Remove what is left of generations that were replaced, as far as nobody here reads them."""
        self._shadows.tidy()

    # --- inside ---

    @contextmanager
    def _vector_view(self) -> Iterator[tuple[VectorView, Row] | None]:
        with self._existing() as (_, row):
            generation = None if row is None else self._generations.enter(row)
        if row is None or generation is None:
            yield None
            return
        try:
            yield generation.vector_view(row), row
        finally:
            self._generations.leave(generation)

    @contextmanager
    def _existing(self) -> Iterator[tuple[sqlite3.Connection, Row | None]]:
        with self._database.reading() as connection:
            yield connection, self._presence.find(connection)

    def _ensure(self, writer: sqlite3.Connection, now: float, **made: Unpack[Made]) -> Row:
        row = self._presence.find(writer)
        if row is None:
            with self._database.transaction() as connection:
                settings, metric = self._shared.settings, self._wanted or made.get("metric") or "cosine"
                dtype, language = made.get("dtype"), made.get("language")
                row = collections.insert(connection, self.name, metric=metric, dtype=dtype or settings.dtype, now=now)
                wording.begin(connection, row, language or settings.lexical_language)
        collections.check_metric(row.info, self._wanted)
        return row

    def _settled(self, row: Row, space: Space) -> Row:
        with self._database.transaction() as connection:
            collections.settle(connection, row, space)
            settled = collections.load(connection, row.key)
        return settled or row

    def _write(self, connection: sqlite3.Connection, row: Row, batch: Batch, sums: list[int], now: float) -> int:
        sequence, slot, left = row.sequence + 1, row.slots, iter(sums)
        added = sum(len(upsert.chunks) for upsert in batch.upserts)
        if added != len(sums):
            raise StoreError(f"a batch of {added} chunks came with {len(sums)} vectors")
        ids = [upsert.document.id for upsert in batch.upserts]
        gone, gone_chunks, gone_bytes = documents.remove(connection, row, ids, sequence=sequence)
        new_bytes = 0
        for upsert in batch.upserts:
            documents.put(
                connection, row, upsert, root=batch.root, first_slot=slot, sums=left, sequence=sequence, now=now
            )
            slot += len(upsert.chunks)
            new_bytes += len(upsert.document.text.encode())
        titles = self._shared.settings.lexical_titles
        for document in batch.relabeled:
            documents.relabel(connection, row.key, document, root=batch.root, sequence=sequence, now=now, titles=titles)
        return collections.advance(
            connection,
            row,
            slots=added,
            documents=len(ids) - gone,
            chunks=added - gone_chunks,
            text_bytes=new_bytes - gone_bytes,
            now=now,
        )

    def _append(self, generation: Generation, row: Row, vectors: Float32 | Stored) -> list[int]:
        if vectors.dtype.names is None:
            return generation.append(row, vectors)
        codec = row.codec()
        if codec is None or codec.record != vectors.dtype:
            raise StoreError(f"collection {self.name!r} stores {row.info.dtype}, other records were offered")
        return generation.append_records(row, vectors)

    def _refuse_if_protected(self, row: Row, ids: Sequence[str]) -> None:
        if row.info.protected and self.known(ids):
            raise self._presence.refused(row, "change of an existing document")


def _touched(batch: Batch) -> list[str]:
    return [upsert.document.id for upsert in batch.upserts] + [document.id for document in batch.relabeled]

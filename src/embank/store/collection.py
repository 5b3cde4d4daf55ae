"""One collection of a local bank: changes as whole batches, and pictures of its state for searching."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from embank.errors import CollectionNotFound, EmbankError, ProtectedCollectionError, StoreError
from embank.events.kinds import DocumentsCommitted, DocumentsDeleted
from embank.memory.governor import Registration
from embank.store import audit, collections, documents
from embank.store.collections import Row
from embank.store.index.exact import ExactIndex
from embank.store.index.protocol import Float32, Mask, Neighbors, Slots
from embank.store.protocol import Batch, CollectionInfo, Known, Passage, Space, StoredDocument
from embank.store.shared import Shared
from embank.store.sweep import Sweep
from embank.store.vectors import Rows, Segments
from embank.store.views import LexicalView, Picture
from embank.store.where import compile_where
from embank.system.log import get_logger

_log = get_logger(__name__)

_MAX_RETRIES = 100
_CLOSING_LAG_ROWS = 256


@dataclass(frozen=True, slots=True)
class Epoch:
    """The vectors and tombstones as of `sequence`; never changed, only replaced."""

    sequence: int
    rows: Rows | None
    dead: Mask | None


class StoredCollection:
    """A collection of an open bank. Thread-safe. It may not exist yet: then it is empty."""

    def __init__(self, shared: Shared, name: str) -> None:
        self.name = name
        self._shared = shared
        self._database = shared.database
        self._guard = threading.RLock()
        self._segments: Segments | None = None
        self._view: LexicalView | None = None
        self._registration: Registration | None = None
        self._epoch = Epoch(0, None, None)
        self._written = False

    # --- what there is ---

    def info(self) -> CollectionInfo | None:
        """What is recorded of it; `None` before the first document. One row is read, whatever the size."""
        with self._database.reading() as connection:
            row = collections.find(connection, self.name)
        return None if row is None else row.info

    def known(self, ids: Iterable[str]) -> dict[str, Known]:
        """What is held under each of `ids`."""
        with self._existing() as (connection, row):
            return {} if row is None else documents.known(connection, row.key, ids)

    def get(self, ids: Sequence[str]) -> list[StoredDocument]:
        """The documents of `ids` that exist, in that order."""
        with self._existing() as (connection, row):
            return [] if row is None else documents.fetch(connection, row.key, ids)

    def listing(
        self, *, limit: int, after: str | None = None, where: Mapping[str, Any] | None = None
    ) -> list[StoredDocument]:
        """At most `limit` documents behind the id `after`, in the order of ids."""
        predicate = None if where is None else compile_where(where)
        with self._existing() as (connection, row):
            if row is None:
                return []
            return documents.listing(connection, row.key, limit=limit, after=after, where=predicate)

    # --- changes ---

    def commit(self, batch: Batch, space: Space | None) -> int:
        """Write a batch, whole and durably, and return the sequence it got. `space` is that of `batch.vectors`."""
        clock = self._shared.clock
        now, started = clock.now(), clock.monotonic()
        with self._database.changing() as writer:
            row = self._ensure(writer, now)
            self._refuse_if_protected(row, batch)
            if len(batch.vectors):
                if space is None:
                    raise StoreError("a batch with vectors must say which space they belong to")
                if row.info.fingerprint != space.fingerprint:
                    row = self._settled(row, space)
                self._append(row, batch.vectors)
            with self._database.transaction() as connection:
                sequence = self._write(connection, row, batch, now)
        self._written = True
        self._committed(batch, sequence, clock.monotonic() - started)
        return sequence

    def delete(self, ids: Iterable[str], *, act: str = "delete", where: Mapping[str, Any] | None = None) -> int:
        """Delete the documents of `ids`, or those for which `where` holds; return how many there were. On record."""
        predicate = None if where is None else compile_where(where)
        now = self._shared.clock.now()
        with self._database.transaction() as connection:
            row = collections.find(connection, self.name)
            if row is None:
                return 0
            if row.info.protected:
                raise _protected(row, "delete")
            doomed = list(ids) if predicate is None else documents.matching_ids(connection, row.key, predicate)
            gone, chunks, text_bytes = documents.remove(connection, row.key, doomed, sequence=row.sequence + 1)
            if not gone:
                return 0
            sequence = collections.advance(
                connection, row, slots=0, documents=-gone, chunks=-chunks, text_bytes=-text_bytes, now=now
            )
            detail = {"where": dict(where)} if where is not None else {"first_ids": doomed[:20]}
            audit.record(connection, act, self.name, at=now, documents=gone, chunks=chunks, sequence=sequence, **detail)
        self._shared.stream.publish(DocumentsDeleted(collection=self.name, sequence=sequence, documents=gone))
        return gone

    def protect(self, *, protected: bool) -> None:
        """Refuse, or allow again, every change of existing documents. On record."""
        now = self._shared.clock.now()
        with self._database.changing() as writer:
            row = self._ensure(writer, now)
            with self._database.transaction() as connection:
                connection.execute("UPDATE collections SET protected = ? WHERE id = ?", (int(protected), row.key))
                audit.record(connection, "protect" if protected else "unprotect", self.name, at=now)

    def close(self) -> None:
        """Close files and the view's writer, which is brought up to date first if readers would find it far behind."""
        if self._written:
            try:
                self.catch_up(lag_rows=_CLOSING_LAG_ROWS)
            except EmbankError as error:  # nothing is lost by it: whoever opens the bank next catches up
                _log.warning("the lexical view of %r lags behind: %s", self.name, error)
        with self._guard:
            if self._registration is not None:
                self._registration.close()
            if self._view is not None:
                self._view.close()
            if self._segments is not None:
                self._segments.close()
            self._view, self._registration = None, None
            self._segments, self._epoch = None, Epoch(0, None, None)

    # --- searching ---

    @contextmanager
    def snapshot(self, *, where: Mapping[str, Any] | None = None, lexical: bool = True) -> Iterator[Snapshot]:
        """One consistent state to search: documents, vectors, tombstones and words of the same sequence."""
        predicate = None if where is None else compile_where(where)
        for _ in range(_MAX_RETRIES):
            with self._database.reading() as connection:
                row = collections.find(connection, self.name)
                if row is None:
                    raise CollectionNotFound(f"there is no collection {self.name!r} in {self._database.root}")
                epoch = self._epoch_of(connection, row)
                picture = self._lexical(row).picture(row, connection) if lexical and row.slots else None
                # A view that another thread moved on belongs to a later state than this connection sees: look again.
                if epoch.sequence > row.sequence or (picture is not None and picture.sequence > row.sequence):
                    continue
                allowed = None if epoch.dead is None else ~epoch.dead
                if predicate is not None:
                    allowed = np.zeros(row.slots, np.bool_)
                    allowed[documents.matching_slots(connection, row.key, predicate)] = True
                yield Snapshot(row, connection, epoch, picture, allowed)
                return
        raise StoreError(f"no consistent state of {self.name!r} in {_MAX_RETRIES} tries: too many writers")

    def sweep(self, root: str) -> Sweep:
        """Watch which documents a run over the source `root` gives, to tell afterwards which are gone."""
        return Sweep(self._database, self.name, root)

    def catch_up(self, *, lag_rows: int | None = None) -> None:
        """Bring the lexical view up to date if it lags by `lag_rows` passages, or as many as the settings allow."""
        allowed = self._shared.settings.lexical_rows if lag_rows is None else lag_rows
        with self._database.reading() as connection:
            row = collections.find(connection, self.name)
            if row is not None and row.slots:
                view = self._lexical(row)
                if view.lag_rows(row) >= allowed:
                    view.picture(row, connection)

    def writer_view(self) -> LexicalView | None:
        """The lexical view where one is open, for those who account for its memory."""
        return self._view

    # --- inside ---

    @contextmanager
    def _existing(self) -> Iterator[tuple[sqlite3.Connection, Row | None]]:
        with self._database.reading() as connection:
            yield connection, collections.find(connection, self.name)

    def _ensure(self, writer: sqlite3.Connection, now: float) -> Row:
        row = collections.find(writer, self.name)
        if row is None:
            with self._database.transaction() as connection:
                row = collections.insert(connection, self.name, dtype=self._shared.settings.dtype, now=now)
        return row

    def _settled(self, row: Row, space: Space) -> Row:
        with self._database.transaction() as connection:
            collections.settle(connection, row, space)
            settled = collections.load(connection, row.key)
        return settled or row

    def _append(self, row: Row, vectors: Float32) -> None:
        with self._guard:
            if self._segments is None:
                self._segments = self._shared.segments(row)
            segments = self._segments
        segments.append(vectors, mark=row.slots)
        segments.sync()

    def _write(self, connection: sqlite3.Connection, row: Row, batch: Batch, now: float) -> int:
        sequence, slot = row.sequence + 1, row.slots
        ids = [upsert.document.id for upsert in batch.upserts]
        gone, gone_chunks, gone_bytes = documents.remove(connection, row.key, ids, sequence=sequence)
        new_bytes = 0
        for upsert in batch.upserts:
            documents.put(connection, row.key, upsert, root=batch.root, first_slot=slot, sequence=sequence, now=now)
            slot += len(upsert.chunks)
            new_bytes += len(upsert.document.text.encode())
        for document in batch.relabeled:
            documents.relabel(connection, row.key, document, root=batch.root, sequence=sequence, now=now)
        added = slot - row.slots
        if added != len(batch.vectors):
            raise StoreError(f"a batch of {added} chunks came with {len(batch.vectors)} vectors")
        return collections.advance(
            connection,
            row,
            slots=added,
            documents=len(ids) - gone,
            chunks=added - gone_chunks,
            text_bytes=new_bytes - gone_bytes,
            now=now,
        )

    def _committed(self, batch: Batch, sequence: int, seconds: float) -> None:
        self._shared.stream.publish(
            DocumentsCommitted(
                collection=self.name,
                sequence=sequence,
                documents=len(batch.upserts) + len(batch.relabeled),
                chunks=len(batch.vectors),
                seconds=seconds,
            )
        )

    def _refuse_if_protected(self, row: Row, batch: Batch) -> None:
        if not row.info.protected:
            return
        ids = [upsert.document.id for upsert in batch.upserts] + [document.id for document in batch.relabeled]
        if self.known(ids):
            raise _protected(row, "change of an existing document")

    def _epoch_of(self, connection: sqlite3.Connection, row: Row) -> Epoch:
        with self._guard:
            old = self._epoch
            if old.sequence >= row.sequence or row.info.dimension is None:
                return old
            if self._segments is None:
                self._segments = self._shared.segments(row)
            buried = documents.buried_slots(connection, row.key, after=old.sequence)
            dead = old.dead
            if len(buried) or dead is not None:
                dead = np.zeros(row.slots, np.bool_)
                if old.dead is not None:
                    dead[: len(old.dead)] = old.dead
                dead[buried] = True
            self._epoch = Epoch(row.sequence, self._segments.rows(row.slots), dead)
            return self._epoch

    def _lexical(self, row: Row) -> LexicalView:
        with self._guard:
            if self._view is None:
                self._view = self._shared.lexical_view(row)
                self._registration = self._shared.register(self._view)
            return self._view


class Snapshot:
    """One state of a collection, while the block that made it lasts. For one thread."""

    def __init__(
        self,
        row: Row,
        connection: sqlite3.Connection,
        epoch: Epoch,
        picture: Picture | None,
        allowed: Mask | None,
    ) -> None:
        self.info = row.info
        self.degraded = picture is not None and picture.degraded
        self._row = row
        self._connection = connection
        self._rows = epoch.rows
        self._picture = picture
        self._allowed = allowed

    def dense(self, query: Float32, k: int) -> Neighbors:
        """The `k` nearest live chunks by cosine; `query` is float32, normalised, shape (dimension,)."""
        if self._rows is None:
            return _NONE
        return ExactIndex(self._rows).search(query, k, allowed=self._allowed)

    def lexical(self, text: str, k: int) -> Neighbors:
        """The `k` best live chunks by BM25."""
        if self._picture is None:
            return _NONE
        return self._picture.search(text, k, allowed=self._allowed, below=self._row.slots)

    def similarity(self, query: Float32, slots: Slots) -> Float32:
        """Cosine of `query` with each of `slots`."""
        if self._rows is None or not len(slots):
            return _NONE.scores
        similarity: Float32 = self._rows.gather(slots) @ query
        return similarity

    def owners(self, slots: Slots) -> dict[int, int]:
        """A number for the document of each slot."""
        return documents.owners(self._connection, self._row.key, slots.tolist())

    def passages(self, slots: Slots) -> list[Passage]:
        """The chunks at `slots`, in that order."""
        return documents.passages(self._connection, self._row.key, slots.tolist())


_NONE = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))


def _protected(row: Row, act: str) -> ProtectedCollectionError:
    return ProtectedCollectionError(
        f"collection {row.info.name!r} is protected and refuses {act}; new documents may be added",
        collection=row.info.name,
    )

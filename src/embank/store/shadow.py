"""Filling a new generation of a collection's vectors beside the one in use, and putting it in its place.

Every window of documents is one durable commit, so that filling can be cut short at any moment and goes on from there.
Writes to the collection go on meanwhile: what they change has a later sequence and is read again. Only the swap itself
makes writers wait, while the last documents are read.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from embank.errors import CollectionNotFound, EmbankError, FingerprintMismatch, ProtectedCollectionError, StoreError
from embank.records import Chunk
from embank.store import audit, collections, documents, generations
from embank.store.collections import Row
from embank.store.generation import Generation, OpenGenerations
from embank.store.generations import Filling, Pending
from embank.store.protocol import Float32, Reembedding, Space
from embank.store.shared import Shared
from embank.system.log import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """A document as it goes into the new generation. `digest` covers everything that decides its chunks and vectors."""

    document: Pending
    digest: bytes
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True)
class Swapped:
    """What is in use from `sequence` on."""

    sequence: int
    generation: int
    documents: int
    chunks: int


class Shadow:
    """A generation that is being filled. For one thread."""

    def __init__(self, shared: Shared, generations_open: OpenGenerations, at: Filling, generation: Generation) -> None:
        self._shared = shared
        self._database = shared.database
        self._open = generations_open
        self._generation = generation
        self._key = at.row.key
        self._number = at.row.info.generation
        self._name = at.row.info.name

    def remaining(self) -> int:
        """Documents that are still to be put into it."""
        with self._database.reading() as connection:
            return generations.remaining(connection, self._at(connection))

    def window(self, *, documents: int, characters: int) -> list[Pending]:
        """The next documents to be put into it, until either number is reached; empty when it has them all."""
        found: list[Pending] = []
        size = 0
        with self._database.reading() as connection:
            for each in generations.pending(connection, self._at(connection)):
                found.append(each)
                size += len(each.text)
                if len(found) >= documents or size >= characters:
                    break
        return found

    def commit(self, drafts: Sequence[Draft], vectors: Float32) -> int:
        """Write a window, whole and durably; return how many documents went in.

        `vectors` is float32, L2-normalised, shape (total chunks, dimension). Documents that were changed since the
        window was read are left out: they come again.
        """
        with self._database.changing() as writer:
            at = self._at(writer)
            _refuse_if_protected(at.row)
            kept = [generations.is_current(writer, at, draft.document) for draft in drafts]
            counts = [len(draft.chunks) for draft in drafts]
            if sum(counts) != len(vectors):
                raise StoreError(f"a window of {sum(counts)} chunks came with {len(vectors)} vectors")
            current = vectors if all(kept) else vectors[np.repeat(kept, counts)]
            sums = iter(self._generation.append(at.row, current) if len(current) else [])
            with self._database.transaction() as connection:
                slot = at.row.slots
                for draft, keep in zip(drafts, kept, strict=True):
                    if keep:
                        key = draft.document.key
                        documents.put_chunks(connection, at.row, key, draft.chunks, first_slot=slot, sums=sums)
                        generations.record_digest(connection, at, draft.document, draft.digest)
                        slot += len(draft.chunks)
                last = drafts[-1].document
                now = self._shared.clock.now()
                generations.move_on(connection, at, slots=slot, read=(last.sequence, last.key), now=now)
        return sum(kept)

    def catch_up(self, *, lag_rows: int | None = None) -> None:
        """Bring its lexical view up to date if it lags by `lag_rows` passages, or as many as the settings allow."""
        allowed = self._shared.settings.lexical_rows if lag_rows is None else lag_rows
        with self._database.reading() as connection:
            row = self._at(connection).row
            if row.slots:
                view = self._generation.view(row)
                if view.lag_rows(row) >= allowed:
                    view.picture(row, connection)

    @contextmanager
    def writers_waiting(self) -> Iterator[None]:
        """While the block lasts no other thread changes the bank."""
        with self._database.changing():
            yield

    def swap(self) -> Swapped:
        """Put it in use, in one transaction and on record. It must hold every document, and writers must be waiting."""
        with self._database.changing() as writer:
            at = self._at(writer)
            row = collections.load(writer, self._key)
            if row is None:
                raise CollectionNotFound(f"there is no collection {self._name!r} in {self._database.root}")
            _refuse_if_protected(row)
            missing = generations.remaining(writer, at)
            if missing:
                raise StoreError(f"{missing} documents of {self._name!r} have no vectors of the new model yet")
            now = self._shared.clock.now()
            with self._database.transaction() as connection:
                sequence, chunks = generations.swap(connection, row, at, now=now)
                audit.record(
                    connection,
                    "reembed",
                    self._name,
                    at=now,
                    documents=row.info.documents,
                    chunks=chunks,
                    sequence=sequence,
                    generation=self._number,
                    replaced=row.info.fingerprint,
                    fingerprint=at.row.info.fingerprint,
                )
            self._open.put_in_use(at.row)
        return Swapped(sequence, self._number, row.info.documents, chunks)

    def _at(self, connection: sqlite3.Connection) -> Filling:
        row = collections.load(connection, self._key)
        at = None if row is None else generations.filling(connection, row)
        if at is None or at.row.info.generation != self._number:
            raise StoreError(f"the re-embedding of {self._name!r} was ended elsewhere", collection=self._name)
        return at


class Shadows:
    """What there is of other generations of one collection: one to be filled, and those to be removed."""

    def __init__(self, shared: Shared, name: str, generations_open: OpenGenerations) -> None:
        self._shared = shared
        self._database = shared.database
        self._name = name
        self._open = generations_open
        self._filling = threading.Lock()
        self._tidying = threading.Lock()
        self._untidy = False

    def state(self) -> Reembedding | None:
        """See `StoredCollection.reembedding`."""
        with self._database.reading() as connection:
            row = collections.find(connection, self._name)
            at = None if row is None else generations.filling(connection, row)
            return None if at is None else _described(connection, at)

    def check(self) -> None:
        """Raise unless the collection is there, may be re-embedded, and can be written."""
        with self._database.changing() as writer:
            self._row(writer)

    @contextmanager
    def open(self, space: Space, *, dtype: str | None) -> Iterator[Shadow]:
        """See `StoredCollection.shadow`."""
        with self.alone():
            at = self._begun(space, dtype)
            with self._open.using(at.row, in_use=False) as generation:
                yield Shadow(self._shared, self._open, at, generation)

    def abandon(self) -> Reembedding | None:
        """See `StoredCollection.abandon_reembedding`."""
        with self.alone(), self._database.changing() as writer:
            row = collections.find(writer, self._name)
            at = None if row is None else generations.filling(writer, row)
            if at is None:
                return None
            told = _described(writer, at)
            now = self._shared.clock.now()
            with self._database.transaction() as connection:
                generations.retire(connection, at, now=now)
                audit.record(
                    connection,
                    "abandon reembedding",
                    self._name,
                    at=now,
                    fingerprint=told.space.fingerprint,
                    documents=told.documents - told.remaining,
                )
        self.tidy()
        return told

    def tidy(self, *, only_known: bool = False) -> None:
        """Remove retired generations, rows in small steps and then files, but for those that somebody here reads.

        With `only_known` it looks only where an earlier call had to leave something. Raises nothing: what is left
        costs disk space until the next try, after a change or when the bank is opened.
        """
        if (only_known and not self._untidy) or not self._tidying.acquire(blocking=False):
            return
        try:
            with self._database.reading() as connection:
                row = collections.find(connection, self._name)
                doomed = [] if row is None else generations.retired(connection, row.key)
            removed = [number for number in doomed if row is not None and self._remove(row.key, number)]
            self._untidy = len(removed) < len(doomed)
        except (EmbankError, OSError, sqlite3.Error) as error:
            self._untidy = True
            _log.warning("replaced vectors of %r are still on the disk: %s", self._name, error)
        finally:
            self._tidying.release()

    def _remove(self, key: int, number: int) -> bool:
        # Rows may go while somebody reads: a reader's state of the database has them still.
        while True:
            with self._database.transaction() as connection:
                if not generations.erase_step(connection, key, number):
                    break
        if not self._open.drop(key, number):
            return False
        with self._database.changing():
            self._shared.remove_files(key, number)
            with self._database.transaction() as connection:
                generations.forget(connection, key, number)
        return True

    def _begun(self, space: Space, dtype: str | None) -> Filling:
        with self._database.changing() as writer:
            row = self._row(writer)
            self._shared.bring_format(2, writer)
            at = generations.filling(writer, row)
            if at is None:
                with self._database.transaction() as connection:
                    now = self._shared.clock.now()
                    generations.begin(connection, row, space, dtype=dtype or row.info.dtype, now=now)
                    at = generations.filling(connection, row)
            elif (at.row.info.fingerprint, at.row.info.dtype) != (space.fingerprint, dtype or at.row.info.dtype):
                raise FingerprintMismatch(
                    f"a re-embedding of {self._name!r} with {at.row.info.fingerprint} as {at.row.info.dtype} is under "
                    f"way, not with {space.fingerprint} as {dtype or at.row.info.dtype}: go on with that one (without "
                    f"naming a model), or throw it away (--abandon)",
                    stored=at.row.info.fingerprint,
                    offered=space.fingerprint,
                )
            if at is None:
                raise StoreError(f"the re-embedding of {self._name!r} vanished while it was begun")
            return at

    def _row(self, writer: sqlite3.Connection) -> Row:
        row = collections.find(writer, self._name)
        if row is None:
            raise CollectionNotFound(f"there is no collection {self._name!r} in {self._database.root}")
        _refuse_if_protected(row)
        return row

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While the block lasts no other thread makes a generation; `StoreError` where one does."""
        if not self._filling.acquire(blocking=False):
            raise StoreError(f"{self._name!r} is being re-embedded or compacted by another thread of this process")
        try:
            yield
        finally:
            self._filling.release()


def _described(connection: sqlite3.Connection, at: Filling) -> Reembedding:
    info = at.row.info
    return Reembedding(
        collection=info.name,
        generation=info.generation,
        space=Space(info.fingerprint or "", info.dimension or 0, info.model),
        dtype=info.dtype,
        documents=info.documents,
        remaining=generations.remaining(connection, at),
        slots=info.slots,
        started=at.started,
        changed=at.changed,
    )


def _refuse_if_protected(row: Row) -> None:
    if row.info.protected:
        raise ProtectedCollectionError(
            f"collection {row.info.name!r} is protected, and re-embedding changes the vectors of every document: "
            f"allow changes first",
            collection=row.info.name,
        )

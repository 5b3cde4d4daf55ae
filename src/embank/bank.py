"""A bank and its collections, as a user of Python holds them in the hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from embank.collection import Where
from embank.engine import Engine, load_config
from embank.errors import DocumentNotFound, InvalidInput
from embank.given import DocumentLike, document, own_vectors, user_space
from embank.modelbook import Target
from embank.pipeline import IngestReport, OnCommit, OnProgress, OnSkip, add_vectors
from embank.portable import Portable
from embank.records import Document
from embank.reduce.reducer import Reducer
from embank.reembedding import OnReembedProgress, ReembedReport
from embank.searched import Searched
from embank.source.protocol import Source
from embank.store import metric as metrics
from embank.store import words
from embank.store.backup import OnBackupProgress, back_up
from embank.store.collection import StoredCollection
from embank.store.compact import OnCompactProgress
from embank.store.dropping import OnDropProgress
from embank.store.hot.reports import HotReport
from embank.store.info import BankStats, disk_bytes
from embank.store.protocol import CollectionInfo, Reembedding, StoredDocument
from embank.store.purge import OnPurgeProgress
from embank.store.reports import BackupReport, CompactReport, DropReport, PurgeReport, VerifyReport
from embank.store.retention import Rule
from embank.store.verify import OnVerifyProgress, verify
from embank.tuned import Tunable

if TYPE_CHECKING:
    from embank.caches import CachesSnapshot
    from embank.config import Config
    from embank.embed.model import Model, Precision
    from embank.events.stream import Stream
    from embank.memory.creep.operation import Operation
    from embank.memory.creep.report import CreepReport
    from embank.memory.governor import MemorySnapshot
    from embank.search.rerank import Reranker
    from embank.store.audit import AuditRow

MAX_LIMIT = 100_000


class LocalCollection(Portable, Searched, Tunable):
    """A collection of a local bank. Thread-safe. It comes into being with its first document."""

    def __init__(self, engine: Engine, stored: StoredCollection) -> None:
        super().__init__(engine, stored)
        self.vector_index = stored.index
        self.hot = stored.hot

    @property
    def name(self) -> str:
        return self._stored.name

    def __repr__(self) -> str:
        return f"Collection({self.name!r})"

    def add(
        self,
        documents: Iterable[DocumentLike],
        *,
        vectors: object = None,
        space: str = "own",
        on_progress: OnProgress | None = None,
        on_commit: OnCommit | None = None,
    ) -> IngestReport:
        """Upsert documents by id; return when they are durable and visible.

        Unchanged text is not embedded again; changed metadata alone is written without embedding. `vectors`, shape
        (len(documents), dimension), are the caller's own: they are not embedded, are normalised where the metric is
        cosine, and make the collection one of the space `user:SPACE:DIMENSION`. An `InvalidInput` in a list means that
        nothing was written; from an iterator, the windows before it are kept (`on_commit` was told of them).
        """
        if isinstance(documents, str | bytes | Mapping | Document):
            raise InvalidInput("documents must be a list or another iterable of documents, not a single one")
        if vectors is not None:
            listed = [document(each) for each in documents]
            metric = self._stored.metric
            rows = own_vectors(vectors, len(listed), metric)
            own = user_space(space, rows.shape[1])
            kept, narrow = self._engine.fitted.narrowing(self._stored.info(), own)
            return add_vectors(self._stored, listed, rows, metric=metric, space=kept, narrow=narrow)
        pipeline = self._engine.pipeline(self._stored, on_progress=on_progress, on_commit=on_commit)
        if isinstance(documents, Sequence):
            return pipeline.add([document(each) for each in documents])
        return pipeline.add(document(each) for each in documents)

    def index(
        self,
        source: Source | Callable[[OnSkip], Source],
        *,
        prune: bool = False,
        on_progress: OnProgress | None = None,
        on_commit: OnCommit | None = None,
    ) -> IngestReport:
        """Bring the collection in step with a source (or what makes one, given a callback for skipped items).

        New and changed documents are embedded, unchanged ones are not; those that vanished from the source are kept
        and counted, unless `prune`. May be stopped at any time and run again.
        """
        pipeline = self._engine.pipeline(self._stored, on_progress=on_progress, on_commit=on_commit)
        if isinstance(source, Source):
            made = source
            return pipeline.index(lambda _: made, prune=prune)
        return pipeline.index(source, prune=prune)

    def reembed(
        self,
        model: str | Model | None = None,
        *,
        precision: Precision | None = None,
        engine: str | None = None,
        force: bool = False,
        on_progress: OnReembedProgress | None = None,
    ) -> ReembedReport:
        """Give every document vectors of another model, and search with that from then on.

        Searches and writes go on meanwhile. However it is stopped, the old vectors stay in use, what was embedded is
        kept, and calling it again goes on (then `model` needn't be named). `model` is a name, a folder or a `Model`;
        with `precision` or `engine` alone the collection's own model is meant. A collection that has vectors of that
        model already is left as it is, unless `force`. Vectors of the user's own are replaced, too: the texts are
        there.

        Raises `ProtectedCollectionError`, `BankReadOnly`, `CollectionNotFound`; `FingerprintMismatch` while one with
        another model is under way; and what the model raises.
        """
        return self._engine.reembed(
            self._stored, Target(model, precision, engine), force=force, on_progress=on_progress
        )

    def reembedding(self) -> Reembedding | None:
        """The re-embedding that is under way or was interrupted; `None` where there is none."""
        return self._stored.reembedding()

    def abandon_reembedding(self) -> Reembedding | None:
        """Throw away a re-embedding that was begun; the vectors in use stay. What it was, `None` if there was none."""
        return self._engine.abandon_reembedding(self._stored)

    def reducer(self) -> Reducer:
        """What makes its vectors smaller: fits a PCA and applies it, stores them in fewer bytes, compares such ways."""
        return self._engine.reducer(self._stored)

    def compact(self, *, dry_run: bool = False, on_progress: OnCompactProgress | None = None) -> CompactReport:
        """Rewrite vectors and words without those of passages that were deleted or replaced.

        Answers stay the same, and searches and writes go on meanwhile. However it is stopped, the collection is as it
        was. Protected collections may be compacted: no document changes. `dry_run` only tells what there is to do, and
        whether the settings find it due (`store.compact_dead`, `store.compact_least`).

        Raises `CollectionNotFound`, `BankReadOnly`, `BudgetExceeded`, `StorageFull` before anything is begun where the
        disk has no room for both, and `StoreError` while a re-embedding is not finished.
        """
        with self._engine.creep.track("compact"):
            report = self._stored.compact(dry_run=dry_run, on_progress=on_progress)
            if report.outcome == "compacted":
                self._engine.recovery.recover_now()  # what windows and words took lies with the allocator
            return report

    def purge(
        self,
        *,
        older_than: float | timedelta | None = None,
        keep: int | None = None,
        by: str | None = None,
        where: Where | None = None,
        dry_run: bool = False,
        on_progress: OnPurgeProgress | None = None,
    ) -> PurgeReport:
        """Delete what was written longer ago than `older_than` (seconds), or all but the newest `keep` documents.

        With `by` the time under that key of the metadata counts: seconds since the epoch, or an ISO 8601 date or time;
        documents without one stay. `where` confines either to what matches it, or stands alone. `dry_run` tells exactly
        what would go.

        It goes in steps, on one record of the audit; cut short, the same call goes on. What is written while it runs is
        left alone. Raises `CollectionNotFound`, `InvalidInput`, and `ProtectedCollectionError`, also in a dry run.
        """
        age = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        rule = Rule(older_than_s=age, keep=keep, by=by, where=where)
        with self._engine.creep.track("purge"):
            return self._stored.purge(rule, dry_run=dry_run, on_progress=on_progress)

    def get(self, ids: str | Sequence[str]) -> list[StoredDocument]:
        """The documents of one or several ids, in that order; `DocumentNotFound` names those that are missing."""
        wanted = [ids] if isinstance(ids, str) else list(ids)
        found = self._stored.get(wanted)
        missing = sorted(set(wanted) - {document.id for document in found})
        if missing:
            named = ", ".join(map(repr, missing[:5])) + (" …" if len(missing) > 5 else "")
            raise DocumentNotFound(f"collection {self.name!r} has no document {named}", ids=missing)
        self.hot.touch(wanted)
        return found

    def delete(self, ids: str | Sequence[str] | None = None, *, where: Where | None = None) -> int:
        """Delete by ids or by filter; return how many documents went. Ids that do not exist are fine."""
        if (ids is None) == (where is None):
            raise InvalidInput("delete takes either ids or where")
        listed = [ids] if isinstance(ids, str) else list(ids or ())
        with self._engine.creep.track("delete"):
            return self._stored.delete(listed, where=where)

    def count(self, where: Where | None = None) -> int:
        """Documents in it, or those that match; without a filter one row is read, whatever the size."""
        return self._stored.count(where)

    def stats(self) -> CollectionInfo | None:
        """What is recorded of it; one row is read, whatever the size. `None` while it has never held a document."""
        return self._stored.info()

    def protect(self, *, protected: bool = True) -> None:
        """Refuse from now on every change of documents that exist (or allow it again). New ones may be added."""
        self._stored.protect(protected=protected)

    def list(self, *, limit: int = 100, after: str | None = None, where: Where | None = None) -> list[StoredDocument]:
        """At most `limit` documents in the order of their ids; go on with `after` = the last id."""
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidInput(f"limit must be a whole number from 1 to {MAX_LIMIT}, not {limit!r}")
        return self._stored.listing(limit=limit, after=after, where=where)


class Bank:
    """An open bank: a context manager. Made by `embank.open`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def path(self) -> Path:
        return self._engine.store.root

    @property
    def engine(self) -> Engine:
        """The rooms that it is made of, for those who build on more than this class offers, as the service does."""
        return self._engine

    @property
    def events(self) -> Stream:
        """The stream of everything that happens in this bank."""
        return self._engine.stream

    @property
    def config(self) -> Config:
        return self._engine.config

    def collection(
        self, name: str = "default", *, metric: str | None = None, language: str | None = None
    ) -> LocalCollection:
        """The collection of that name; it comes into being with its first document.

        `metric` is what it compares vectors by, from then on: `cosine` (what it is unless said), `dot` (the inner
        product) or `l2` (the distance; a score is minus its square). `embank.store.metric` has what each means.

        `language` is how its words are stemmed from now on (by default as before, at first as `store.lexical_language`
        says); another than before has its lexical view built anew. `embank.store.words` has what there are.

        Raises `MetricMismatch` where it compares them by another, and `InvalidInput` for an unknown one.
        """
        wanted = None if metric is None else metrics.checked(metric)
        spoken = None if language is None else words.checked(language)
        found = LocalCollection(self._engine, self._engine.store.collection(name, metric=wanted))
        if spoken is not None:
            self._engine.store.set_language(name, spoken)
        return found

    def collections(self) -> list[CollectionInfo]:
        """What is recorded of each collection, by name."""
        return self._engine.store.collections()

    def drop(self, name: str, *, dry_run: bool = False, on_progress: OnDropProgress | None = None) -> DropReport:
        """Drop a collection whole, on record: it is there or gone, whenever this is killed. `dry_run` only tells.

        Handles of it raise `CollectionNotFound` from then on; searches under way end as they would have. Vectors in
        `cache`, under keys that tell no text, stay. Raises `CollectionNotFound`, `BankReadOnly`, `StoreError` while it
        is re-embedded or compacted, and `ProtectedCollectionError`, also in a dry run.
        """
        return self._engine.drop(name, dry_run=dry_run, on_progress=on_progress)

    def stats(self) -> BankStats:
        """What it holds, and its bytes on the disk: one row a collection is read, whatever the size."""
        return BankStats(tuple(self.collections()), disk_bytes(self.path))

    def memory(self) -> MemorySnapshot:
        """Ledgers, rung and consumers, measured now."""
        return self._engine.governor.snapshot()

    def creep(self) -> CreepReport:
        """Whether memory creeps up with the operations, by kind, and whose growth it was found to be."""
        return self._engine.creep.report()

    def track(self, kind: str) -> Operation:
        """A mark for operations of your own, as a context manager or decorator, so that their creep is told, too."""
        return self._engine.creep.track(kind)

    def cache(self) -> CachesSnapshot:
        """What the caches hold, and how often they were right, as of now."""
        return self._engine.caches.snapshot()

    def clear_cache(self) -> int:
        """Empty the caches, the one on disk as well; return the bytes of memory freed."""
        return self._engine.caches.clear()

    def warm(self) -> None:
        """Load the model of new collections now, instead of with the first text; raises what loading it raises.

        With `cache.disk`, the vectors used last come into memory as well.
        """
        self._engine.models.warm()

    def models(self) -> list[Any]:
        """States of the models of this process."""
        return list(self._engine.loader().states())

    def audit(self, *, limit: int = 100) -> list[AuditRow]:
        """The latest acts on record (deletions, purges, compactions, protection), newest first."""
        return self._engine.store.audit(limit=limit)

    def verify(self, *, full: bool = False, on_progress: OnVerifyProgress | None = None) -> VerifyReport:
        """Check the database, records against rows, vectors, and the views derived from them; nothing is written.

        `full` also checks the database's indexes and decodes every text. What is damaged is in the report, which names
        the documents concerned as far as that can be told. `embank.store.verify` has the rules.
        """
        with self._engine.creep.track("verify"):
            return verify(self.path, full=full, on_progress=on_progress)

    def backup(self, target: str | Path, *, on_progress: OnBackupProgress | None = None) -> BackupReport:
        """Copy the bank as it is now to `target`, which must not exist, while it is used; the copy is verified.

        Raises `InvalidInput`, `StorageFull`, and `BankDamaged` where what was copied does not hold together. Whatever
        is raised, nothing is left of it. `embank restore` makes a bank of the copy, which is one itself, too.
        """
        with self._engine.creep.track("backup"):
            return back_up(self.path, Path(target), on_progress=on_progress)

    def rebuild_hot(self, *, dry_run: bool = False) -> list[HotReport]:
        """Make the hot tier of every collection anew; see `Collection.hot`, which does it for one."""
        return self._engine.rebuild_hot(dry_run=dry_run)

    def release(self) -> int:
        """Give back all memory that can be earned again; return the bytes freed, as measured. The bank stays open."""
        return self._engine.release()

    def close(self) -> None:
        """Close the bank. What was acknowledged is safe whether or not this is ever called."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bank(
    path: str | Path,
    *,
    memory: str | int | None = None,
    model: str | Model | None = None,
    reranker: str | Reranker | None = None,
    read_only: bool = False,
    own_process: bool = False,
    config: Config | None = None,
    flags: Mapping[str, object] | None = None,
) -> Bank:
    """Open the bank at `path`, creating it if missing.

    `memory` is the budget: bytes, "512MB" or "60%". `model` names a model or a model's folder, or is an object that
    follows `Model`; `reranker` likewise (`embank.search.rerank`). `read_only` opens an existing bank beside a process
    that writes it. `own_process`: the process exists for Embank alone, so that the budget holds for all of it. `flags`
    are further settings by their keys.
    """
    named = model if isinstance(model, str) else None
    ranking = reranker if isinstance(reranker, str) else None
    given = {"memory.budget": memory, "embed.model": named, "search.reranker": ranking, **(flags or {})}
    settings = config or load_config({key: value for key, value in given.items() if value is not None})
    return Bank(
        Engine(
            Path(path),
            config=settings,
            read_only=read_only,
            own_process=own_process,
            model=None if isinstance(model, str) else model,
            reranker=None if isinstance(reranker, str) else reranker,
        )
    )

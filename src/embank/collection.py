"""What a collection can do, wherever it is kept, in a bank at hand or on a server: commands are written against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from embank.given import DocumentLike
from embank.pipeline import IngestReport, OnCommit, OnProgress, OnSkip
from embank.records import Hit
from embank.reduce.reducer import Reducer
from embank.reembedding import OnReembedProgress, ReembedReport
from embank.search.pages import Page
from embank.search.pairs import Pairs
from embank.search.query import Options
from embank.search.settings import Mode
from embank.search.tuning import EvaluateReport, OnTuneProgress, TuneReport
from embank.source.protocol import Source
from embank.store.compact import OnCompactProgress
from embank.store.hot.hot import HotTier
from embank.store.index.handle import CollectionIndex
from embank.store.protocol import CollectionInfo, Reembedding, StoredDocument
from embank.store.purge import OnPurgeProgress
from embank.store.reports import CompactReport, PurgeReport
from embank.store.tunings import Tuning
from embank.transfer.exporting import OnTransferProgress
from embank.transfer.reports import ExportReport, ImportReport

if TYPE_CHECKING:
    from embank.embed.model import Model, Precision

Where = Mapping[str, Any]


class Collection(Protocol):
    """A collection of documents, wherever it is kept."""

    vector_index: CollectionIndex
    hot: HotTier

    @property
    def name(self) -> str: ...

    def add(
        self,
        documents: Iterable[DocumentLike],
        *,
        vectors: object = None,
        space: str = "own",
        on_progress: OnProgress | None = None,
        on_commit: OnCommit | None = None,
    ) -> IngestReport: ...

    def index(
        self,
        source: Source | Callable[[OnSkip], Source],
        *,
        prune: bool = False,
        on_progress: OnProgress | None = None,
        on_commit: OnCommit | None = None,
    ) -> IngestReport: ...

    def reembed(
        self,
        model: str | Model | None = None,
        *,
        precision: Precision | None = None,
        engine: str | None = None,
        force: bool = False,
        on_progress: OnReembedProgress | None = None,
    ) -> ReembedReport: ...

    def reembedding(self) -> Reembedding | None: ...

    def abandon_reembedding(self) -> Reembedding | None: ...

    def reducer(self) -> Reducer: ...

    def compact(self, *, dry_run: bool = False, on_progress: OnCompactProgress | None = None) -> CompactReport: ...

    def purge(
        self,
        *,
        older_than: float | timedelta | None = None,
        keep: int | None = None,
        by: str | None = None,
        where: Where | None = None,
        dry_run: bool = False,
        on_progress: OnPurgeProgress | None = None,
    ) -> PurgeReport: ...

    def export(
        self,
        file: str | Path,
        *,
        vectors: bool = False,
        where: Where | None = None,
        kind: str | None = None,
        overwrite: bool = False,
        on_progress: OnTransferProgress | None = None,
    ) -> ExportReport: ...

    def import_file(
        self,
        file: str | Path,
        *,
        embed: bool = False,
        dry_run: bool = False,
        on_progress: OnTransferProgress | None = None,
    ) -> ImportReport: ...

    def get(self, ids: str | Sequence[str]) -> list[StoredDocument]: ...

    def delete(self, ids: str | Sequence[str] | None = None, *, where: Where | None = None) -> int: ...

    def search(
        self,
        query: str | None = None,
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        vector: object = None,
        **options: Unpack[Options],
    ) -> list[Hit]: ...

    def search_many(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        vectors: object = None,
        **options: Unpack[Options],
    ) -> Sequence[Sequence[Hit]]: ...

    def search_page(
        self,
        query: str | None = None,
        *,
        k: int = 10,
        after: str | None = None,
        where: Where | None = None,
        mode: Mode | None = None,
        vector: object = None,
        like: str | None = None,
        **options: Unpack[Options],
    ) -> Page: ...

    def like(
        self,
        id: str,  # noqa: A002 -- what it is called everywhere
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        **options: Unpack[Options],
    ) -> list[Hit]: ...

    def evaluate(
        self, pairs: str | Path | Pairs, *, k: int = 10, on_progress: OnTuneProgress | None = None
    ) -> EvaluateReport: ...

    def tune(
        self,
        pairs: str | Path | Pairs,
        *,
        k: int = 10,
        dry_run: bool = False,
        seed: int = 0,
        on_progress: OnTuneProgress | None = None,
    ) -> TuneReport: ...

    def tuning(self) -> Tuning | None: ...

    def untune(self) -> Tuning | None: ...

    def count(self, where: Where | None = None) -> int: ...

    def stats(self) -> CollectionInfo | None: ...

    def protect(self, *, protected: bool = True) -> None: ...

    # Last, since behind it `list` no longer means the builtin.
    def list(
        self, *, limit: int = 100, after: str | None = None, where: Where | None = None
    ) -> list[StoredDocument]: ...

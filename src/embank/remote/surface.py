"""What a bank can do that either this process opens or a running server holds, and its collections: what both can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

if TYPE_CHECKING:
    from embank.caches import CachesSnapshot
    from embank.events.stream import Stream
    from embank.given import DocumentLike
    from embank.memory.governor import MemorySnapshot
    from embank.pipeline import IngestReport, OnProgress, OnSkip
    from embank.records import Hit
    from embank.search.pages import Page
    from embank.search.query import Options
    from embank.search.settings import Mode
    from embank.source.protocol import Source
    from embank.store.compact import OnCompactProgress
    from embank.store.dropping import OnDropProgress
    from embank.store.protocol import CollectionInfo, StoredDocument
    from embank.store.purge import OnPurgeProgress
    from embank.store.reports import CompactReport, DropReport, PurgeReport

Where = Mapping[str, Any]
Vector = Sequence[float]
"""Of shape (dimension,)."""


class OpenCollection(Protocol):
    """A collection, as `embank.bank.LocalCollection` has these methods. What they mean is told there."""

    @property
    def name(self) -> str: ...

    def add(
        self, documents: Iterable[DocumentLike], *, vectors: Sequence[Vector] | None = None, space: str = "own"
    ) -> IngestReport: ...

    def index(
        self,
        source: Callable[[OnSkip], Source],
        *,
        prune: bool = False,
        on_progress: OnProgress | None = None,
    ) -> IngestReport: ...

    def search(
        self,
        query: str | None = None,
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        vector: Vector | None = None,
        **options: Unpack[Options],
    ) -> list[Hit]: ...

    def like(
        self,
        id: str,  # noqa: A002 -- what it is called everywhere
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
        **options: Unpack[Options],
    ) -> list[Hit]: ...

    def search_many(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        where: Where | None = None,
        mode: Mode | None = None,
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
        vector: Vector | None = None,
        like: str | None = None,
        **options: Unpack[Options],
    ) -> Page: ...

    def get(self, ids: str | Sequence[str]) -> list[StoredDocument]: ...

    def delete(self, ids: str | Sequence[str] | None = None, *, where: Where | None = None) -> int: ...

    def count(self, where: Where | None = None) -> int: ...

    def stats(self) -> CollectionInfo | None: ...

    def compact(self, *, dry_run: bool = False, on_progress: OnCompactProgress | None = None) -> CompactReport: ...

    def purge(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        by: str | None = None,
        where: Where | None = None,
        dry_run: bool = False,
        on_progress: OnPurgeProgress | None = None,
    ) -> PurgeReport: ...

    # Last, since behind it `list` no longer means the builtin.
    def list(
        self, *, limit: int = 100, after: str | None = None, where: Where | None = None
    ) -> list[StoredDocument]: ...


class OpenBank(Protocol):
    """A bank, as `embank.bank.Bank` has these methods."""

    @property
    def events(self) -> Stream: ...

    def collection(
        self, name: str = "default", *, metric: str | None = None, language: str | None = None
    ) -> OpenCollection: ...

    def collections(self) -> list[CollectionInfo]: ...

    def drop(self, name: str, *, dry_run: bool = False, on_progress: OnDropProgress | None = None) -> DropReport: ...

    def memory(self) -> MemorySnapshot: ...

    def cache(self) -> CachesSnapshot: ...

    def clear_cache(self) -> int: ...

    def warm(self) -> None: ...

"""From an exported file into a collection: the whole file is read and checked first, then written window by window.

Documents are upserted by id, so an import that was cut short is given again, and goes on. Vectors of the collection's
own fingerprint are taken over as they are; others are refused, unless the texts are to be embedded anew. A collection
that is made for it has the metric and the language of the one that was exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from embank.embed.reduce import split_fingerprint
from embank.errors import FingerprintMismatch, SourceError
from embank.events.kinds import CollectionImported
from embank.events.stream import Stream
from embank.kit import WINDOW_WAIT_S, windows
from embank.memory.governor import Governor
from embank.memory.priority import bulk_work
from embank.pipeline import IngestReport
from embank.records import Document
from embank.store.codec import Stored
from embank.store.collection import StoredCollection
from embank.store.documents import encode_metadata
from embank.store.protocol import Batch, CollectionInfo, Space, Upsert
from embank.system.clock import Clock
from embank.transfer.exporting import OnTransferProgress
from embank.transfer.form import BadRow, Head, Item
from embank.transfer.reports import ImportReport

_SHOWN = 10
_CHECKED = 0.3
"""How much of the work reading and checking the file is."""
_COPIES = 3

Add = Callable[[Iterable[Document]], IngestReport]
"""Embeds and upserts documents."""


class Reader(Protocol):
    """An opened file, which can be read more than once."""

    head: Head

    @property
    def fraction(self) -> float: ...

    def rows(self) -> Iterator[Item | BadRow]: ...

    def close(self) -> None: ...


class Importer:
    """Writes one file into one collection, once. `operation` marks each window that is written."""

    def __init__(
        self,
        collection: StoredCollection,
        reader: Reader,
        *,
        name: str,
        add: Add,
        governor: Governor,
        stream: Stream,
        clock: Clock,
        operation: AbstractContextManager[object],
        on_progress: OnTransferProgress | None,
    ) -> None:
        self._collection = collection
        self._reader = reader
        self._head = reader.head
        self._name = name
        self._add = add
        self._governor = governor
        self._stream = stream
        self._clock = clock
        self._operation = operation
        self._on_progress = on_progress

    def run(self, *, embed: bool, dry_run: bool) -> ImportReport:
        """Check everything, then write, unless `dry_run`.

        Raises before anything is written: `SourceError` for a file with rows that can't be taken (all are counted,
        some are named), `FingerprintMismatch`, `MetricMismatch`, `ProtectedCollectionError`.
        """
        started = self._clock.monotonic()
        keep = self._head.vectors and not embed
        info = self._collection.info()
        if keep:
            self._check_space(info)
        checked = self._check(info, keep=keep)
        if dry_run:
            checked.seconds = self._clock.monotonic() - started
            return checked
        report = self._keep(info) if keep else self._embed()
        report.seconds = self._clock.monotonic() - started
        self._stream.publish(
            CollectionImported(
                collection=report.collection,
                file=report.file,
                documents=report.documents,
                vectors=report.vectors,
                embedded=report.embedded,
                seconds=report.seconds,
            )
        )
        return report

    # --- looking ---

    def _report(self, *, dry_run: bool = False) -> ImportReport:
        return ImportReport(self._collection.name, self._name, dry_run, self._head.fingerprint)

    def _check_space(self, info: CollectionInfo | None) -> None:
        held = None if info is None else info.fingerprint
        way_out = "embed its texts with the collection's own model (--embed), or name another collection"
        if held is not None and held != self._head.fingerprint:
            raise FingerprintMismatch(
                f"{self._name} has vectors of {self._head.fingerprint}, collection {self._collection.name!r} holds "
                f"vectors of {held}: {way_out}",
                stored=held,
                offered=self._head.fingerprint,
            )
        self._collection.want(self._head.metric)
        if held is None and split_fingerprint(self._head.fingerprint or "")[1]:
            raise FingerprintMismatch(
                f"{self._name} has vectors that were reduced by a matrix, which this bank has not: embed its texts "
                f"(--embed), or take the whole bank along (`embank backup`)",
                offered=self._head.fingerprint,
            )

    def _check(self, info: CollectionInfo | None, *, keep: bool) -> ImportReport:
        """Read the whole file; what an import would do."""
        report = self._report(dry_run=True)
        report.exact = keep and (info is None or info.dtype == self._head.dtype)
        bad: list[BadRow] = []
        count = 0

        def good() -> Iterator[Item]:
            nonlocal count
            for row in self._reader.rows():
                if isinstance(row, Item):
                    yield row
                    continue
                count += 1
                if len(bad) < _SHOWN:
                    bad.append(row)

        for window in windows(good()):
            self._plan(window, report, keep=keep)
            self._tell(self._reader.fraction * _CHECKED, f"{report.documents:,} documents checked")
        if count:
            named = "; ".join(map(str, bad)) + (" …" if count > len(bad) else "")
            raise SourceError(
                f"{self._name} has {count:,} rows that can't be taken, nothing was imported: {named}",
                path=self._name,
                rows=[each._asdict() for each in bad],
                count=count,
            )
        return report

    def _plan(self, window: list[Item], report: ImportReport, *, keep: bool) -> tuple[list[Item], list[Document]]:
        """What of a window is to be written whole, and what has other metadata only; counted."""
        latest = {each.document.id: each for each in window}
        report.documents += len(window)
        report.duplicates += len(window) - len(latest)
        held = self._collection.known(latest)
        texts = {} if keep else {each.id: each.text for each in self._collection.get(list(latest))}
        whole: list[Item] = []
        relabeled: list[Document] = []
        for name, each in latest.items():
            known = held.get(name)
            if known is None:
                report.added += 1
            elif known.digest != each.digest if keep else texts.get(name) != each.text:
                report.updated += 1
            elif known.metadata != encode_metadata(each.document):
                report.relabeled += 1
                relabeled.append(each.document)
                continue
            else:
                report.unchanged += 1
                continue
            whole.append(each)
            report.vectors += len(each.chunks) if keep else 0
            report.embedded += not keep
        if held:
            changed = [each.document.id for each in whole] + [each.id for each in relabeled]
            self._collection.check_changeable([name for name in changed if name in held])
        return whole, relabeled

    # --- writing ---

    def _embed(self) -> ImportReport:
        report = self._report()

        def documents() -> Iterator[Document]:
            for row in self._rows():
                yield row.document
                self._tell(_CHECKED + (1 - _CHECKED) * self._reader.fraction, "embedding")

        self._collection.ensure(metric=self._head.metric, language=self._head.language)
        done = self._add(documents())
        report.documents, report.added, report.updated = done.seen, done.added, done.updated
        report.relabeled, report.unchanged, report.duplicates = done.relabeled, done.unchanged, done.duplicates
        report.embedded, report.commits = done.embedded, done.commits
        info = self._collection.info()
        report.fingerprint = None if info is None else info.fingerprint
        self._collection.on_record("import", file=self._name, documents=report.documents, embedded=report.embedded)
        return report

    def _keep(self, info: CollectionInfo | None) -> ImportReport:
        head, codec = self._head, self._head.codec()
        if codec is None or head.fingerprint is None:
            raise SourceError(f"{self._name} has no vectors", path=self._name)
        space = Space(head.fingerprint, codec.dimension, head.model)
        report = self._report()
        info = self._collection.ensure(dtype=codec.dtype, language=head.language)
        report.exact = info.dtype == codec.dtype
        record = self._collection.on_record("import", file=self._name, fingerprint=head.fingerprint, done=False)
        for window in windows(self._rows()):
            size = sum(each.size_bytes for each in window) * _COPIES
            with (
                self._operation,
                bulk_work(),
                self._governor.reserve("a window of an import", size, wait_s=WINDOW_WAIT_S),
            ):
                whole, relabeled = self._plan(window, report, keep=True)
                if not whole and not relabeled:
                    continue
                records = np.concatenate([np.empty(0, codec.record), *(_records(each) for each in whole)])
                vectors = records if report.exact else codec.decode(records)
                upserts = [Upsert(each.document, each.digest, each.chunks) for each in whole]
                self._collection.commit(Batch(None, upserts, vectors, relabeled, self._head.metric), space)
            report.commits += 1
            self._collection.catch_up()
            self._tell(_CHECKED + (1 - _CHECKED) * self._reader.fraction, f"{report.documents:,} documents written")
        self._collection.on_record(
            "import", record, file=self._name, fingerprint=head.fingerprint, documents=report.documents, done=True
        )
        self._collection.catch_up(lag_rows=1)
        return report

    def _rows(self) -> Iterator[Item]:
        """The rows again, none of which was bad a moment ago."""
        for row in self._reader.rows():
            if isinstance(row, BadRow):
                raise SourceError(f"{self._name} was changed while it was imported: {row}", path=self._name)
            yield row

    def _tell(self, fraction: float, words: str) -> None:
        self._governor.check()
        if self._on_progress is not None:
            self._on_progress(fraction, words)


def _records(each: Item) -> Stored:
    if each.records is None:
        raise SourceError(f"document {each.document.id!r} came without vectors")
    return each.records

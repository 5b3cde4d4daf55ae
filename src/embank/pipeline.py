"""The write path on one page: source -> chunk -> embed -> store, in bounded windows.

A window of documents is compared with what the store holds; what changed is cut, embedded and committed as one batch.
What is unchanged is never embedded again. Between windows nothing is pending: stopping there, by an error or Ctrl-C,
loses at most the window under way, and running again goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from embank.errors import FingerprintMismatch, InvalidInput
from embank.events.kinds import IngestProgressed, SourceItemSkipped
from embank.events.stream import Stream
from embank.kit import WINDOW_DOCUMENTS, WINDOW_WAIT_S, Kit, windows
from embank.memory.governor import Governor
from embank.memory.priority import bulk_work
from embank.records import Chunk, Document
from embank.records import IngestReport as IngestReport  # noqa: PLC0414 -- what it makes
from embank.source.protocol import Source
from embank.store.collection import StoredCollection
from embank.store.documents import check_document, encode_metadata
from embank.store.metric import Metric
from embank.store.origins import belongs_elsewhere
from embank.store.protocol import Batch, Float32, Known, Space, Upsert
from embank.store.sweep import Sweep
from embank.system.clock import Clock

MAX_SAMPLES = 100

_UNREAD = {
    *("unreadable", "undecodable", "changed", "vanished", "broken line", "oversized", "syntax error", "bad value"),
    *("damaged", "encrypted", "missing extra", "over limit"),
}
"""Skips after which what an item gave before is kept: it is there, but could not be read now."""


OnSkip = Callable[[str, str, str], None]
"""Called with origin, reason and detail of everything that gives no document."""

OnProgress = Callable[[IngestReport], None]
"""Called after every window, in the ingesting thread, with the live report."""

OnCommit = Callable[[Sequence[str]], None]
"""Called with the ids of a batch as soon as they are durable and visible."""


@dataclass(slots=True)
class _Plan:
    """What of a window is to be written, and how that counts."""

    upserts: list[Upsert] = field(default_factory=list)
    relabeled: list[Document] = field(default_factory=list)
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    conflicts: list[tuple[Document, Known]] = field(default_factory=list)


class Pipeline:
    """Writes into one collection with one model. One run at a time.

    `kit` gives the means for the vectors that the collection has now; it is called again when they were replaced by
    another model's during a run, which then goes on with that one. `operation` marks each window that is written.
    """

    def __init__(
        self,
        collection: StoredCollection,
        kit: Callable[[], Kit],
        *,
        governor: Governor,
        stream: Stream,
        clock: Clock,
        operation: AbstractContextManager[object],
        on_progress: OnProgress | None = None,
        on_commit: OnCommit | None = None,
    ) -> None:
        self._collection = collection
        self._new_kit = kit
        self._kit = kit()
        self._governor = governor
        self._stream = stream
        self._clock = clock
        self._operation = operation
        self._on_progress = on_progress
        self._on_commit = on_commit

    def add(self, documents: Iterable[Document]) -> IngestReport:
        """Upsert documents by id. A bad one raises `InvalidInput`: before anything is written if it is a sequence."""
        if isinstance(documents, Sequence):
            for document in documents:
                check_document(document)
        documents = map(_checked, documents)
        report = IngestReport(self._collection.name)
        started = self._clock.monotonic()
        for window in windows(documents):
            report.seen += len(window)
            self._write(window, report, root=None)
            self._progress(report, started)
        return report

    def index(self, open_source: Callable[[OnSkip], Source], *, prune: bool = False) -> IngestReport:
        """Bring the collection in step with a source; `prune` deletes what the source no longer has.

        `open_source` makes the source and is handed what the source must call for everything it skips. A document
        that can't be kept is a counted skip, too.
        """
        report = IngestReport(self._collection.name)
        held: set[str] = set()

        def skip(origin: str, reason: str, detail: str) -> None:
            self._skip(report, origin, reason, detail)
            if reason in _UNREAD:
                # What has no origin of its own (a row of a file) may be the very item that could not be read.
                held.update((origin, ""))

        source = open_source(skip)
        report.bytes_total = source.bytes_total
        started = self._clock.monotonic()
        with self._collection.sweep(source.root) as sweep:
            for window in windows(source.documents()):
                report.seen += len(window)
                usable = [document for document in window if _usable(document, skip)]
                before = sweep.see([document.id for document in usable], [document.origin for document in usable])
                report.duplicates += len(before)
                self._write(usable, report, root=source.root, again=before)
                report.bytes_done = source.report.bytes_done
                sweep.hold(held)
                held.clear()
                self._progress(report, started)
            report.bytes_done = source.report.bytes_done
            sweep.hold(held)
            self._sweep_up(sweep, report, prune=prune)
        self._collection.catch_up(lag_rows=1)
        self._progress(report, started)
        return report

    # --- one window ---

    def _write(
        self, window: Sequence[Document], report: IngestReport, *, root: str | None, again: Iterable[str] = ()
    ) -> None:
        """Embed and commit what changed of a window. Of several documents with one id the last stands."""
        latest = {document.id: document for document in window}
        report.duplicates += len(window) - len(latest)
        repeated = set(again)
        while True:
            plan = self._plan(latest, root, repeated)
            try:
                chunks = self._commit(plan, root)
            except FingerprintMismatch:
                if not self._renewed():
                    raise
                continue
            break
        report.added += plan.added
        report.updated += plan.updated
        report.relabeled += len(plan.relabeled)
        report.unchanged += plan.unchanged
        report.conflicts += len(plan.conflicts)
        for document, held in plan.conflicts:
            self._skip(report, document.origin or document.id, "conflict", f"id held by {held.root}")
        if plan.upserts or plan.relabeled:
            report.chunks += chunks
            report.commits += 1
            if self._on_commit is not None:
                self._on_commit([each.document.id for each in plan.upserts] + [each.id for each in plan.relabeled])
            # A reading process keeps what lies past the view's marker in memory: never let that grow with the run.
            self._collection.catch_up()

    def _plan(self, latest: Mapping[str, Document], root: str | None, repeated: set[str]) -> _Plan:
        known = self._collection.known(latest)
        plan = _Plan()
        for document in latest.values():
            held = known.get(document.id)
            if held is not None and belongs_elsewhere(held, root, document):
                plan.conflicts.append((document, held))
                continue
            digest = self._kit.digest(document.text)
            if held is None or held.digest != digest:
                plan.upserts.append(Upsert(document, digest, self._kit.chunks(document.text)))
                plan.updated += held is not None and document.id not in repeated
                plan.added += held is None
            elif _relabels(held, document, root):
                plan.relabeled.append(document)
            else:
                plan.unchanged += document.id not in repeated
        return plan

    def _commit(self, plan: _Plan, root: str | None) -> int:
        """Embed and write; the number of passages."""
        if not plan.upserts and not plan.relabeled:
            return 0
        kit = self._kit
        texts = [chunk.text for upsert in plan.upserts for chunk in upsert.chunks]
        wanted_bytes = kit.window_bytes(texts)
        with (
            self._operation,
            bulk_work(),
            self._governor.reserve("a window of documents", wanted_bytes, wait_s=WINDOW_WAIT_S),
        ):
            self._collection.commit(Batch(root, plan.upserts, kit.embed(texts), plan.relabeled), kit.space)
        return len(texts)

    def _renewed(self) -> bool:
        """Whether there are means for other vectors than those that were refused."""
        before, self._kit = self._kit, self._new_kit()
        return self._kit.space.fingerprint != before.space.fingerprint

    # --- around it ---

    def _sweep_up(self, sweep: Sweep, report: IngestReport, *, prune: bool) -> None:
        gone = sweep.gone()
        report.vanished = len(gone.vanished)
        if gone.surplus:
            report.surplus = self._collection.delete(gone.surplus, act="remove surplus parts")
        if prune and gone.vanished:
            report.pruned = self._collection.delete(gone.vanished, act="prune")

    def _skip(self, report: IngestReport, origin: str, reason: str, detail: str) -> None:
        report.skipped[reason] = report.skipped.get(reason, 0) + 1
        if len(report.samples) < MAX_SAMPLES:
            report.samples.append((origin, reason, detail))
        self._stream.publish(SourceItemSkipped(origin=origin, reason=reason, detail=detail))

    def _progress(self, report: IngestReport, started: float) -> None:
        self._governor.check()
        report.seconds = self._clock.monotonic() - started
        self._stream.publish(
            IngestProgressed(
                collection=report.collection,
                seen=report.seen,
                embedded=report.embedded,
                unchanged=report.unchanged,
                skipped=sum(report.skipped.values()),
                chunks=report.chunks,
                bytes_done=report.bytes_done,
                bytes_total=report.bytes_total,
                seconds=report.seconds,
            )
        )
        if self._on_progress is not None:
            self._on_progress(report)


def add_vectors(
    collection: StoredCollection,
    documents: Sequence[Document],
    vectors: Float32,
    *,
    metric: Metric,
    space: Space,
    narrow: Callable[[Float32], Float32],
) -> IngestReport:
    """Upsert documents with the caller's own vectors: float32, as `metric` wants them, shape (len(documents), any).

    One passage a document, its whole text. `narrow` makes vectors of `space` of them.
    """
    for document in documents:
        check_document(document)
    report = IngestReport(collection.name, seen=len(documents))
    latest = {document.id: row for row, document in enumerate(documents)}
    report.duplicates = len(documents) - len(latest)
    rows = list(latest.values())
    for first in range(0, len(rows), WINDOW_DOCUMENTS):
        chosen = rows[first : first + WINDOW_DOCUMENTS]
        known = collection.known(documents[row].id for row in chosen)
        upserts, used, relabeled = [], [], []
        for row in chosen:
            document = documents[row]
            digest = hashlib.blake2b(vectors[row].tobytes() + document.text.encode(), digest_size=16).digest()
            held = known.get(document.id)
            if held is None or held.digest != digest:
                upserts.append(Upsert(document, digest, [Chunk(document.text, 0, len(document.text))]))
                used.append(row)
                report.updated += held is not None
                report.added += held is None
            elif _relabels(held, document, None):
                relabeled.append(document)
                report.relabeled += 1
            else:
                report.unchanged += 1
        if upserts or relabeled:
            collection.commit(Batch(None, upserts, narrow(vectors[used]), relabeled, metric), space)
            report.chunks += len(used)
            report.commits += 1
    collection.catch_up()
    return report


def approximate_tokens(texts: Sequence[str]) -> list[int]:
    """Stands in for the tokenizer of a model that can't count: one token for every three bytes begun.

    Common tokenizers make fewer tokens than that of nearly any text, so that passages come out short, not cut off.
    """
    return [-(-len(text.encode()) // 3) for text in texts]


def _checked(document: Document) -> Document:
    check_document(document)
    return document


def _usable(document: Document, skip: OnSkip) -> bool:
    try:
        check_document(document)
    except InvalidInput as error:
        skip(document.origin or "", "bad value", str(error))
        return False
    return True


def _relabels(held: Known, document: Document, root: str | None) -> bool:
    return held.metadata != encode_metadata(document) or (held.root, held.origin) != (root, document.origin)

"""Re-embedding on one page: every document of a collection gets vectors of another model, which then replace the old.

Searches go on against the old vectors and writes go on too, meanwhile. Each window is a durable commit: stopping there,
by an error, Ctrl-C or a kill, loses at most the window under way, and running again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from embank.errors import EmbankError
from embank.events.kinds import ReembedFinished, ReembedProgressed, ReembedStarted
from embank.events.stream import Stream
from embank.kit import WINDOW_CHARACTERS, WINDOW_DOCUMENTS, WINDOW_WAIT_S, Kit
from embank.memory.governor import Governor
from embank.memory.priority import bulk_work
from embank.store.collection import StoredCollection
from embank.store.shadow import Draft, Shadow
from embank.system.clock import Clock
from embank.system.log import get_logger

_log = get_logger(__name__)

_PATIENCE_ROUNDS = 4
"""So many rounds may leave more than half of the one before, until writers are made to wait."""


@dataclass(slots=True)
class ReembedReport:
    """What a run did. `outcome` is "swapped", or "nothing to do" where the vectors are of that model already.

    `embedded` documents got `chunks` vectors in this run; `resumed` had theirs from an earlier one. `documents` are
    those of the collection, of which `remaining` are still to be embedded.
    """

    collection: str
    replaced: str | None
    fingerprint: str
    documents: int
    outcome: str = "under way"
    resumed: int = 0
    remaining: int = 0
    embedded: int = 0
    chunks: int = 0
    commits: int = 0
    sequence: int | None = None
    seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1."""
        return 1 - self.remaining / self.documents if self.documents else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "fraction": self.fraction}


OnReembedProgress = Callable[[ReembedReport], None]
"""Called after every window, in the embedding thread, with the live report."""


class Reembedder:
    """Fills a new generation of one collection with the vectors of one kit. One run at a time."""

    def __init__(
        self,
        collection: StoredCollection,
        kit: Kit,
        *,
        dtype: str | None,
        governor: Governor,
        stream: Stream,
        clock: Clock,
        operation: AbstractContextManager[object],
        on_progress: OnReembedProgress | None = None,
    ) -> None:
        self._collection = collection
        self._kit = kit
        self._dtype = dtype
        self._governor = governor
        self._stream = stream
        self._clock = clock
        self._operation = operation
        self._on_progress = on_progress

    def run(self) -> ReembedReport:
        """Begin or go on, to the swap. Whatever is raised, the vectors in use are untouched and it can go on."""
        started = self._clock.monotonic()
        before = self._collection.info()
        with self._collection.shadow(self._kit.space, dtype=self._dtype) as shadow:
            report = ReembedReport(
                self._collection.name,
                replaced=before.fingerprint if before is not None else None,
                fingerprint=self._kit.space.fingerprint,
                documents=0,
            )
            self._look(shadow, report)
            report.resumed = report.documents - report.remaining
            self._stream.publish(
                ReembedStarted(
                    collection=report.collection,
                    replaced=report.replaced,
                    fingerprint=report.fingerprint,
                    documents=report.documents,
                    remaining=report.remaining,
                )
            )
            self._fill(shadow, report, started)
            shadow.catch_up(lag_rows=1)
            with shadow.writers_waiting():
                while self._window(shadow, report, started, urgent=True):
                    pass
                swapped = shadow.swap()
        report.outcome, report.sequence, report.documents = "swapped", swapped.sequence, swapped.documents
        report.remaining = 0
        self._collection.tidy()
        try:
            self._collection.catch_up(lag_rows=1)
        except EmbankError as error:  # the swap stands, and the next search catches up
            _log.warning("the lexical view of %r lags behind: %s", report.collection, error)
        report.seconds = self._clock.monotonic() - started
        self._stream.publish(
            ReembedFinished(
                collection=report.collection,
                fingerprint=report.fingerprint,
                sequence=swapped.sequence,
                documents=swapped.documents,
                chunks=swapped.chunks,
                seconds=report.seconds,
            )
        )
        return report

    def _fill(self, shadow: Shadow, report: ReembedReport, started: float) -> None:
        """Embed what there is, then what was changed meanwhile, and so on: each round has less to do than the last.

        Where writers keep bringing in more than that, it ends with something left: for that they have to wait.
        """
        patience = _PATIENCE_ROUNDS
        ahead = report.remaining
        while ahead and patience:
            behind = 0
            while behind < ahead:
                embedded = self._window(shadow, report, started)
                if not embedded:
                    break
                behind += embedded
            self._look(shadow, report)
            if report.remaining > ahead // 2:
                patience -= 1
            ahead = report.remaining

    def _window(self, shadow: Shadow, report: ReembedReport, started: float, *, urgent: bool = False) -> int:
        """Embed and write the next documents; how many were read, none when there are no more.

        It is bulk work, unless it is `urgent`, since others wait for it.
        """
        window = shadow.window(documents=WINDOW_DOCUMENTS, characters=WINDOW_CHARACTERS)
        if not window:
            return 0
        kit = self._kit
        drafts = [Draft(document, kit.digest(document.text), kit.chunks(document.text)) for document in window]
        texts = [chunk.text for draft in drafts for chunk in draft.chunks]
        wanted_bytes = kit.window_bytes(texts)
        work = nullcontext() if urgent else bulk_work()
        with self._operation, work, self._governor.reserve("a window of documents", wanted_bytes, wait_s=WINDOW_WAIT_S):
            report.embedded += shadow.commit(drafts, kit.embed(texts))
        report.chunks += len(texts)
        report.commits += 1
        report.remaining = max(report.remaining - len(window), 0)
        shadow.catch_up()
        self._progress(report, started)
        return len(window)

    def _look(self, shadow: Shadow, report: ReembedReport) -> None:
        info = self._collection.info()
        report.documents = info.documents if info is not None else 0
        report.remaining = shadow.remaining()

    def _progress(self, report: ReembedReport, started: float) -> None:
        self._governor.check()
        report.seconds = self._clock.monotonic() - started
        self._stream.publish(
            ReembedProgressed(
                collection=report.collection,
                documents=report.documents,
                remaining=report.remaining,
                embedded=report.embedded,
                chunks=report.chunks,
                seconds=report.seconds,
            )
        )
        if self._on_progress is not None:
            self._on_progress(report)

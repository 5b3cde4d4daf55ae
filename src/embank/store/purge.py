"""Purging: documents go by a rule, in steps that let writers and searches in between, on one record.

What goes is chosen once. A document that is written after that is left alone, so that nothing goes which the rule did
not see. Each step is one transaction, which also brings the audit's row up to date: a purge that is cut short, by an
error or a kill, has deleted exactly what that says, and the same call goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

from embank.errors import CollectionNotFound, ProtectedCollectionError
from embank.events.kinds import DocumentsDeleted, DocumentsPurged
from embank.store import audit, collections, documents
from embank.store.collections import Row
from embank.store.compact import is_due
from embank.store.reports import PurgeReport
from embank.store.retention import Chosen, Rule, choose
from embank.store.shared import Shared

STEP_DOCUMENTS = 500
"""Documents that go in one commit: for so long, some 20 ms, writers wait."""

MAX_IDS = 1_000
_FIRST_IDS = 20
_DOCUMENT_BYTES = 48
"""What a chosen document holds while its purge runs: its numbers, and those of the list they are made from."""

_WAIT_S = 60.0

OnPurgeProgress = Callable[[float, str], None]
"""Called after every step with how much is done, 0 to 1, and words."""


class Purger:
    """Purges one collection by one rule. For one thread and one run."""

    def __init__(
        self,
        shared: Shared,
        name: str,
        rule: Rule,
        *,
        refused: Callable[[Row, str], ProtectedCollectionError],
        on_progress: OnPurgeProgress | None = None,
    ) -> None:
        self._shared = shared
        self._database = shared.database
        self._name = name
        self._rule = rule
        self._refused = refused
        self._on_progress = on_progress
        self._documents = self._passages = self._text_bytes = 0
        self._ids: list[str] = []
        self._record: int | None = None
        self._key: int | None = None

    def run(self, *, dry_run: bool) -> PurgeReport:
        """Delete what the rule says, or with `dry_run` only tell what that is. A protected collection refuses both."""
        clock = self._shared.clock
        started, now = clock.monotonic(), clock.now()
        with self._database.reading() as connection:
            row = self._row(connection)
            with self._reserved(row):
                chosen, undated = choose(connection, row, self._rule, now=now)
                if dry_run:
                    for step in _steps(chosen):
                        self._weigh(connection, row, step)
        if not dry_run:
            with self._reserved(row):
                for step in _steps(chosen):
                    self._delete(step, now)
                    self._tell(len(chosen))
        with self._database.reading() as connection:
            info = self._row(connection, act=None).info
        seconds = clock.monotonic() - started
        if not dry_run and self._documents:
            self._shared.stream.publish(
                DocumentsPurged(self._name, self._rule.words, self._documents, self._passages, seconds)
            )
        return PurgeReport(
            collection=self._name,
            rule=self._rule.words,
            dry_run=dry_run,
            documents=self._documents,
            passages=self._passages,
            text_bytes=self._text_bytes,
            remaining=info.documents - (self._documents if dry_run else 0),
            undated=undated,
            changed=len(chosen) - self._documents,
            ids=tuple(self._ids),
            due=is_due(info, self._shared.settings),
            seconds=seconds,
        )

    def _delete(self, step: Chosen, now: float) -> None:
        with self._database.transaction() as connection:
            row = self._row(connection)
            names = documents.unchanged(connection, row, step.tolist())
            gone, chunks, text_bytes = documents.remove(connection, row, names, sequence=row.sequence + 1)
            if not gone:
                return
            sequence = collections.advance(
                connection, row, slots=0, documents=-gone, chunks=-chunks, text_bytes=-text_bytes, now=now
            )
            self._count(names, chunks, text_bytes)
            detail = {
                **self._rule.facts(),
                "documents": self._documents,
                "chunks": self._passages,
                "sequence": sequence,
                "first_ids": self._ids[:_FIRST_IDS],
            }
            if self._record is None:
                self._record = audit.record(connection, "purge", self._name, at=now, **detail)
            else:
                audit.amend(connection, self._record, **detail)
        self._shared.stream.publish(DocumentsDeleted(collection=self._name, sequence=sequence, documents=gone))

    def _weigh(self, connection: sqlite3.Connection, row: Row, step: Chosen) -> None:
        names = documents.unchanged(connection, row, step.tolist())
        self._count(names, *documents.weight(connection, row, step["document"].tolist()))

    def _count(self, names: list[str], chunks: int, text_bytes: int) -> None:
        self._documents += len(names)
        self._passages += chunks
        self._text_bytes += text_bytes
        self._ids += names[: MAX_IDS - len(self._ids)]

    def _row(self, connection: sqlite3.Connection, *, act: str | None = "purge") -> Row:
        row = collections.find(connection, self._name)
        if row is None or self._key not in (None, row.key):  # dropped meanwhile, and maybe made anew
            raise CollectionNotFound(f"there is no collection {self._name!r} in {self._database.root}")
        if act is not None and row.info.protected:
            raise self._refused(row, act)
        self._key = row.key
        return row

    def _reserved(self, row: Row) -> AbstractContextManager[object]:
        governor = self._shared.governor
        if governor is None:
            return nullcontext()
        return governor.reserve("a list of documents", row.info.documents * _DOCUMENT_BYTES, wait_s=_WAIT_S)

    def _tell(self, chosen: int) -> None:
        if self._shared.governor is not None:
            self._shared.governor.check()
        if self._on_progress is not None:
            self._on_progress(self._documents / chosen, f"{self._documents:,} of {chosen:,} documents deleted")


def _steps(chosen: Chosen) -> Iterable[Chosen]:
    return (chosen[start : start + STEP_DOCUMENTS] for start in range(0, len(chosen), STEP_DOCUMENTS))

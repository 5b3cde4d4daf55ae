"""The protocol that every source follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from embank.records import Document
from embank.source.report import SourceReport


@runtime_checkable
class Source(Protocol):
    """A stream of documents with one identity.

    `documents` may be called again; each call starts a new report. A source is iterated by one thread at a time, its
    report may be read by others. Text that it yields encodes as strict UTF-8 (no lone surrogates) and is not blank.
    Raises `SourceError` when the source as a whole can't be read; anything less is a counted skip.
    """

    @property
    def root(self) -> str:
        """Stable identity of where the documents come from; vanished documents are looked for within one root."""
        ...

    @property
    def bytes_total(self) -> int | None:
        """Cheap estimate of the bytes to read, for progress; `None` where unknown."""
        ...

    @property
    def report(self) -> SourceReport:
        """Counts of the present (or the last) iteration, live."""
        ...

    def documents(self) -> Iterator[Document]:
        """Stream every document, in an order that depends on the content of the source only."""
        ...

"""What a source has done so far: items, bytes, and everything that it skipped, counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Reason = Literal[
    "bad value",
    "bank",
    "binary",
    "broken line",
    "broken link",
    "changed",
    "damaged",
    "duplicate",
    "duplicate link",
    "empty",
    "encrypted",
    "hidden",
    "ignored",
    "link",
    "missing extra",
    "name not UTF-8",
    "no text",
    "not a regular file",
    "over limit",
    "oversized",
    "symlink loop",
    "syntax error",
    "undecodable",
    "unreadable",
    "vanished",
]
"""Why an item gave no document. "ignored" covers `.gitignore`, the exclude and include globs and VCS folders."""

SAMPLES = 20
"""How many skips of each reason a report keeps word for word; all are counted."""

DETAIL_CHARS = 300
"""How much of a skip's detail is kept."""


class Skip(NamedTuple):
    """One skipped item. The origin of a folder ends with a slash: everything below it is unknown, too."""

    origin: str
    reason: Reason
    detail: str


OnSkip = Callable[[str, Reason, str], None]
"""Called at each skip with origin, reason and detail. What it raises ends the iteration."""


@dataclass(slots=True)
class SourceReport:
    """Live counts while a source is iterated; one writer (the iterating thread), any number of readers.

    `items` are the things looked at (files, lines, modules), `documents` what was yielded, `bytes_done` how much of
    `Source.bytes_total` is behind, `reencoded` the files that were not UTF-8 and were decoded by a guess.
    """

    items: int = 0
    documents: int = 0
    bytes_done: int = 0
    reencoded: int = 0
    skipped: dict[Reason, int] = field(default_factory=Counter)
    samples: list[Skip] = field(default_factory=list)

    def skip(self, origin: str, reason: Reason, detail: str = "", *, then: OnSkip | None = None) -> None:
        """Count a skip, keep it word for word while there is room, and tell `then`."""
        kept = detail if len(detail) <= DETAIL_CHARS else detail[: DETAIL_CHARS - 1] + "…"
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        if self.skipped[reason] <= SAMPLES:
            self.samples.append(Skip(origin, reason, kept))
        if then is not None:
            then(origin, reason, kept)

    @property
    def skipped_total(self) -> int:
        """All skips, whatever the reason."""
        return sum(list(self.skipped.values()))

    def snapshot(self) -> SourceReport:
        """A copy that no longer changes, safe to take from another thread."""
        return SourceReport(
            items=self.items,
            documents=self.documents,
            bytes_done=self.bytes_done,
            reencoded=self.reencoded,
            skipped=dict(self.skipped),
            samples=list(self.samples),
        )

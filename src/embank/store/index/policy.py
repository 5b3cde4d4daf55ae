"""When a collection has an index, when it is extended or made anew, and how much it may hold."""

from __future__ import annotations

from embank.memory.governor import Governor
from embank.store.collections import Row
from embank.store.index import faiss
from embank.store.index.backend import backend
from embank.store.index.protocol import Way
from embank.store.index.saved import Head
from embank.store.index.settings import Settings
from embank.store.vectors import Rows

_TAIL_SHARE = 1 / 64
"""In large collections the tail may be longer: extending rewrites the file."""

_ANEW_TAIL_SHARE = 1 / 16
"""And longer still where it can't be extended: all of it is made anew."""

_RETRAIN_FACTOR = 4
"""Trained anew once there are so many times the rows of the last training."""


class Policy:
    """What the settings amount to for one collection. Thread-safe."""

    def __init__(self, settings: Settings, governor: Governor | None) -> None:
        self.settings = settings
        self._governor = governor
        self._installed = faiss.available()  # looked up once: it takes longer than a search

    def why_exact(self, row: Row) -> str | None:
        """Why the vectors of `row` are to be scanned; `None` where they are to have an index."""
        settings, slots = self.settings, row.slots
        if settings.kind == "exact":
            return "index.kind is exact"
        if settings.kind == "auto" and slots < settings.exact_below_rows:
            return f"{slots:,} vectors are scanned fast enough (index.exact_below_rows = {settings.exact_below_rows:,})"
        if settings.kind == "auto" and not self._installed:
            return "FAISS is not installed, so that all vectors are scanned: pip install 'embank[faiss]'"
        if slots <= settings.tail_rows:
            return f"{slots:,} vectors are scanned as a tail would be (index.tail_rows = {settings.tail_rows:,})"
        return None

    def is_behind(self, row: Row, head: Head | None) -> bool:
        """Whether more vectors are not in the index that `head` is of, if any, than may be."""
        covered_rows = 0 if head is None else head.rows
        share = _TAIL_SHARE if head is None or head.method.grows else _ANEW_TAIL_SHARE
        return row.slots - covered_rows > max(self.settings.tail_rows, int(covered_rows * share))

    def may_extend(self, head: Head, rows: Rows) -> bool:
        """Whether the codes may be extended to those rows, rather than made anew."""
        if not head.method.grows or len(rows) > _RETRAIN_FACTOR * head.of_rows:
            return False
        return self.settings.kind == "auto" or self._named(rows, head.of_rows) == head.method

    def is_other(self, head: Head) -> bool:
        """Whether the settings name another kind than the codes are of."""
        return self.settings.kind not in {"auto", "exact", head.method.kind}

    def limit_bytes(self) -> int:
        """What the index may hold. Without a governor there is no budget to take a share of: a share is no limit."""
        whole_bytes = 1 << 62 if self._governor is None else self._governor.budget_bytes
        return self.settings.budget.resolve(whole_bytes)

    def named(self, rows: Rows) -> Way | None:
        """The way that the settings name; `None` where it is to be measured."""
        return self._named(rows, len(rows))

    def _named(self, rows: Rows, count: int) -> Way | None:
        kind = self.settings.kind
        if kind in {"auto", "exact"}:
            return None
        way: Way = backend(kind).way(self.settings, kind, rows.codec.dimension, count, rows.metric)
        return way

"""One consistent state of a collection to search, while others write it, compact it, or replace its vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from embank.errors import BankDamaged, CollectionNotFound, StoreError
from embank.store import collections
from embank.store.collections import Row
from embank.store.generation import Epoch, Generation, OpenGenerations
from embank.store.hot.hot import HotTier
from embank.store.index.protocol import Float32, Mask, Neighbors
from embank.store.metric import Metric
from embank.store.shared import Shared
from embank.store.snapshot import Snapshot
from embank.store.views import Picture
from embank.store.where import Condition

_MAX_RETRIES = 100


class States:
    """Gives out states of one collection. Thread-safe. `wanted` is the metric that it is opened with, if any."""

    def __init__(
        self,
        shared: Shared,
        name: str,
        generations: OpenGenerations,
        *,
        hot: HotTier,
        wanted: Callable[[], Metric | None],
    ) -> None:
        self._database = shared.database
        self._name = name
        self._generations = generations
        self._hot = hot
        self._wanted = wanted

    @contextmanager
    def now(self, condition: Condition | None, *, lexical: bool) -> Iterator[Snapshot]:
        """Documents, vectors, tombstones and, with `lexical`, words of the same sequence."""
        for _ in range(_MAX_RETRIES):
            with self._database.reading() as connection:
                row = collections.find(connection, self._name)
                if row is None:
                    raise CollectionNotFound(f"there is no collection {self._name!r} in {self._database.root}")
                collections.check_metric(row.info, self._wanted())
                generation = self._generations.enter(row)
                if generation is None:
                    continue
                try:
                    seen = self._see(generation, row, connection, lexical=lexical)
                    if seen is None:
                        continue
                    epoch, picture = seen
                    if condition is not None:
                        allowed: Mask | None = generation.matching(connection, row, epoch, condition)
                    else:
                        allowed = None if epoch.dead is None else ~epoch.dead
                    index = partial(generation.index, row, epoch)
                    hot = partial(self._from_hot, generation, row, allowed) if self._hot.answers else None
                    yield Snapshot(row, connection, epoch, picture, allowed=allowed, index=index, hot=hot)
                finally:
                    self._generations.leave(generation)
                return
        raise StoreError(f"no consistent state of {self._name!r} in {_MAX_RETRIES} tries: too many writers")

    def _from_hot(
        self, generation: Generation, row: Row, allowed: Mask | None, query: Float32, k: int
    ) -> Neighbors | None:
        """What the hot tier answers while an index that there is to be is missing."""
        if not generation.vector_view(row).is_missing(row):
            return None
        return self._hot.answer(row, query, k, allowed=allowed)

    def _see(
        self, generation: Generation, row: Row, connection: sqlite3.Connection, *, lexical: bool
    ) -> tuple[Epoch, Picture | None] | None:
        """Vectors and words of one state; `None` when the row must be read anew."""
        try:
            epoch = generation.epoch(connection, row)
        except BankDamaged:
            # Another process may have replaced this generation, and removed its files before they were opened here.
            if self._is_replaced(row):
                return None
            raise
        if not lexical or not row.slots:
            return None if epoch.sequence > row.sequence else (epoch, None)
        if self._database.read_only and self._is_replaced(row):
            return None
        picture = generation.view(row).picture(row, connection)
        # A view that another thread moved on belongs to a later state than this connection sees, one of a generation
        # that was replaced to an earlier one: look again.
        return (epoch, picture) if epoch.sequence <= row.sequence == picture.sequence else None

    def _is_replaced(self, row: Row) -> bool:
        with self._database.reading() as connection:
            now = collections.find(connection, self._name)
        return now is None or now.info.generation != row.info.generation

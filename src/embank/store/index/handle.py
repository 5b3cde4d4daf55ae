"""The vector index of a collection, as those outside the store hold it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from embank.store.collections import Row
from embank.store.index import evaluation
from embank.store.index.base import IndexStatus
from embank.store.index.evaluation import Comparison
from embank.store.index.planner import Plan
from embank.store.index.view import VectorView

Opened = Callable[[], AbstractContextManager[tuple[VectorView, Row] | None]]


class CollectionIndex:
    """What a collection is searched with, why, and bringing it up to date. Thread-safe.

    Everything answers `None` for a collection that has never held a document.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def status(self) -> IndexStatus | None:
        """What is in use and why; nothing is loaded for it."""
        with self._opened() as found:
            return None if found is None else found[0].status(found[1])

    def plan(self, *, anew: bool = False) -> Plan | None:
        """What was measured to choose it; `None` where nothing was. `anew` measures now: seconds to a minute.

        Raises `InvalidInput` for too few vectors to try anything on, and `MissingExtra` without FAISS.
        """
        with self._opened() as found:
            return None if found is None else found[0].plan(found[1], anew=anew)

    def compare(self, *, count: int = evaluation.ROWS, seed: int = 0) -> Comparison | None:
        """Every kind of index side by side, measured on `count` of its vectors: seconds to a minute; nothing changes.

        Raises `InvalidInput` where there are too few vectors, `BudgetExceeded`, and `MissingExtra` without FAISS.
        """
        with self._opened() as found:
            return None if found is None else found[0].compare(found[1], count=count, seed=seed)

    def refresh(self) -> IndexStatus | None:
        """Bring it up to date now, if it is due; in a bank that stays open that happens in the background.

        Raises `BudgetExceeded`, `InvalidInput` where there are too few vectors for the kind that the settings name,
        `StoreError` where no kind fits the budget, and `MissingExtra` without FAISS.
        """
        with self._opened() as found:
            if found is None:
                return None
            view, row = found
            view.refresh()
            return view.status(row)

"""Codes for an index that is to be brought up to date: a copy of those that are saved, or new ones.

Settles which way they are made and whether they fit; what goes into them, and when they are used, is the view's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embank.errors import IndexUnavailable, StoreError
from embank.memory.governor import Governor
from embank.store.collections import Row
from embank.store.index import building
from embank.store.index.backend import backend
from embank.store.index.base import Base, IndexPlace
from embank.store.index.kept import Kept
from embank.store.index.plans import Plans
from embank.store.index.policy import Policy
from embank.store.index.protocol import Codes, Mask, Way
from embank.store.vectors import Rows
from embank.system.log import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """Codes that no search knows of yet, on how many rows they were trained, and of how many."""

    codes: Codes
    trained_rows: int
    of_rows: int


class Maker:
    """See the module. For one thread at a time."""

    def __init__(
        self, place: IndexPlace, kept: Kept, policy: Policy, plans: Plans, *, governor: Governor | None
    ) -> None:
        self._place = place
        self._kept = kept
        self._policy = policy
        self._plans = plans
        self._governor = governor

    def copied(self, base: Base | None, rows: Rows) -> Made | None:
        """Codes to be extended: those in use are being searched; `None` where they must be made anew."""
        if base is None or not base.kept or not self._policy.may_extend(base.head, rows):
            return None
        building.check_budget(base.head.method, len(rows), self._policy.limit_bytes())
        try:
            codes, told = self._kept.load()
        except IndexUnavailable:
            raise
        except (OSError, ValueError) as error:
            _log.warning("the saved vector index of %r is gone (%s): rebuilding", self._place.collection_name, error)
            return None
        return Made(codes, told.trained_rows, told.of_rows)

    def trained(
        self, row: Row, rows: Rows, dead: Mask | None, *, going: Callable[[], bool], replan: bool = False
    ) -> Made:
        """Empty codes. `replan`: what was measured before does not count any more."""
        way = self._way(row, rows, dead, going=going, replan=replan)
        building.check_budget(way, len(rows), self._policy.limit_bytes())
        with backend(way.kind).bounded(self._policy.settings.threads):
            codes, count = building.trained(way, rows, home=self._place.home, dead=dead, governor=self._governor)
        return Made(codes, count, len(rows))

    def _way(self, row: Row, rows: Rows, dead: Mask | None, *, going: Callable[[], bool], replan: bool) -> Way:
        named = self._policy.named(rows)
        if named is not None:
            return named
        limit_bytes = self._policy.limit_bytes()
        plan = None if replan else self._plans.current(len(rows), limit_bytes)
        plan = plan or self._plans.make(row, rows, dead, limit_bytes=limit_bytes, going=going)
        if plan.chosen is None:
            raise StoreError(plan.reason)
        return plan.chosen

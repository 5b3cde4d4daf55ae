"""The vector index of a collection: a derived view that is built beside the searches and swapped in whole.

A search takes the codes that are there as they are; what was added since is scanned. The writing process builds them
in a thread of its own, extends them once too many vectors are scanned, and trains them anew once there are several
times as many as at the last training. A reading process takes what the writer saved. Codes that are missing or
damaged cost speed, never answers; so do those that a library or server keeps and can't give.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from embank.errors import EmbankError, IndexUnavailable, InvalidInput, MemoryBudgetError, MissingExtra
from embank.events.kinds import IndexDrifted, IndexFailed, ViewCaughtUp
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.store import generations
from embank.store.collections import Row
from embank.store.index import building, saved
from embank.store.index.backend import backend
from embank.store.index.base import Base, IndexPlace, IndexStatus
from embank.store.index.drift import Drift
from embank.store.index.evaluation import Comparison, Evaluator
from embank.store.index.kept import Kept
from embank.store.index.making import Made, Maker
from embank.store.index.planner import LEAST_ROWS, Plan
from embank.store.index.plans import Ask, Plans
from embank.store.index.policy import Policy
from embank.store.index.protocol import Index, Mask
from embank.store.index.saved import Head
from embank.store.index.settings import Settings
from embank.store.vectors import Rows
from embank.system.background import Background
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.sqlite import Readers

_log = get_logger(__name__)

_RETRY_S = 60.0
_RELOAD_S = 1.0
_RELOAD_ROOM = 2
"""After codes were dropped for want of memory, they come back when there is so many times their size."""

State = Callable[[sqlite3.Connection, Row], tuple[Rows | None, Mask | None]]
"""The vectors and tombstones as a row has them, or of a later state."""


class VectorView:
    """See the module. Thread-safe; also a memory consumer, which drops what it can load again.

    `state` gives the vectors; it is called with nothing of this view locked.
    """

    def __init__(
        self,
        place: IndexPlace,
        readers: Readers,
        state: State,
        *,
        settings: Settings,
        read_only: bool,
        files: Files,
        clock: Clock,
        stream: Stream,
        governor: Governor | None,
        ask: Ask | None = None,
    ) -> None:
        self._place = place
        self._readers = readers
        self._state = state
        self._policy = Policy(settings, governor)
        path = place.path.with_name("plan.json")
        self.plans = Plans(path, readers, settings=settings, files=files, ask=ask, governor=governor)
        self._drift = Drift(
            place.path.with_name("probes.json"),
            collection=place.collection_name,
            settings=settings,
            files=files,
            clock=clock,
            stream=stream,
            governor=governor,
        )
        self._read_only = read_only
        self._kept = Kept(place, files, governor)
        self._maker = Maker(place, self._kept, self._policy, self.plans, governor=governor)
        self._clock = clock
        self._stream = stream
        self._governor = governor
        self._base: Base | None = None
        self._loading = threading.Lock()
        self._building = threading.Lock()
        self._looked_at: tuple[int, int] | None = None  # (inode, time of change) of the file when it was last read
        self._dropped_bytes = 0
        self._load_after_s = self._build_after_s = 0.0
        self._reason: str | None = None
        self._closed = False
        self._thread = Background(f"index of {place.collection_name}", self._turn, clock=clock)

    # --- a memory consumer ---

    @property
    def name(self) -> str:
        return f"vector index {self._place.collection_name}"

    def used_bytes(self) -> int:
        base = self._base
        return 0 if base is None else base.codes.used_bytes()

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 -- codes go whole or not at all
        # Whoever loads or builds is not to be waited for: it may be the one that asks.
        if not self._loading.acquire(blocking=False):
            return 0
        try:
            base = self._base
            if base is None or not base.kept:
                return 0
            freed = base.codes.used_bytes()
            self._base, self._dropped_bytes = None, freed
            self._looked_at = None
            self._load_after_s = self._clock.monotonic() + _RELOAD_S
        finally:
            self._loading.release()
        return freed

    def rebuild_cost(self) -> float:
        return 0.001  # 27 MB are read in 16 ms

    # --- searching ---

    def index(self, row: Row, rows: Rows) -> Index | None:
        """What to search `rows` with, at once; `None` where they are to be scanned."""
        base = self._base
        if base is None or (self._read_only and self._policy.is_behind(row, base.head)):
            base = self._load(row, rows) or base
        if self._is_due(row, base):
            self._thread.wake()
        return None if base is None else base.over(rows, self._failed)

    def is_missing(self, row: Row) -> bool:
        """Whether the vectors are scanned that are to have an index: it is being built, or can't be had now."""
        return self._base is None and self._policy.why_exact(row) is None

    def status(self, row: Row) -> IndexStatus:
        """What is in use and why, without loading anything."""
        base, reason = self._base, self._reason
        head = None if base is None else base.head
        if head is None:
            reason = reason or self._policy.why_exact(row)
            try:
                head = self._kept.head()
            except (OSError, ValueError) as error:
                reason = f"the saved index can't be read: {error}"
        return IndexStatus.of(
            head,
            kind=self._policy.settings.kind,
            metric=row.info.metric,
            rows=row.slots,
            limit_bytes=self._policy.limit_bytes(),
            loaded=base is not None,
            reason=reason,
            probes=None if head is None else self._drift.kept(),
        )

    def plan(self, row: Row, *, anew: bool = False) -> Plan | None:
        """The plan that was made last; `anew` measures now, whatever the settings say, and keeps what was found.

        Raises `MissingExtra`, and `InvalidInput` where there are too few vectors to try anything.
        """
        if not anew:
            return self.plans.kept()
        with self._readers.read() as connection:
            rows, dead = self._state(connection, row)
        if rows is None or len(rows) < LEAST_ROWS:
            raise InvalidInput(
                f"a plan is measured on {LEAST_ROWS:,} vectors or more; fewer are scanned in no time", rows=row.slots
            )
        with self._building:
            limit_bytes, keep = self._policy.limit_bytes(), not self._read_only
            return self.plans.make(row, rows, dead, limit_bytes=limit_bytes, going=self._is_going, keep=keep)

    def compare(self, row: Row, *, count: int, seed: int = 0) -> Comparison:
        """Every kind of index side by side, on `count` of the vectors; nothing is kept of it.

        Raises `InvalidInput` where there are too few, `BudgetExceeded`, and `MissingExtra`.
        """
        with self._readers.read() as connection:
            rows, dead = self._state(connection, row)
        if rows is None:
            raise InvalidInput(f"collection {self._place.collection_name!r} has no vectors yet", rows=0)
        living = np.arange(len(rows)) if dead is None else np.flatnonzero(~dead[: len(rows)])
        with self._building:
            evaluator = Evaluator(self._policy.settings, going=self._is_going, governor=self._governor, seed=seed)
            return evaluator.compare(rows, dead, self.plans.questions(row, rows, living), count=count)

    # --- building ---

    def wake(self, row: Row) -> None:
        """Have the index brought up to date in the background, if it is due."""
        if self._is_due(row, self._base):
            self._thread.wake()

    def refresh(self) -> None:
        """Bring the index up to date now, if it is due.

        Raises `BudgetExceeded`, `InvalidInput` for too few vectors, `IndexUnavailable`, `MissingExtra`, and
        `Interrupted` when closed.
        """
        with self._building:
            with self._readers.read() as connection:
                row = generations.row_of(connection, self._place.collection, self._place.generation)
                if row is None:
                    return
                rows, dead = self._state(connection, row)
            if rows is None or self._read_only:
                return
            base = self._base or self._load(row, rows, wait=True)
            if self._is_due(row, base):
                self._bring_up_to_date(row, rows, dead, base)
            self._reason = None

    def close(self) -> None:
        """Call off what is being built, and let the codes go."""
        self._closed = True
        self._thread.close()
        self._base = None

    def _turn(self) -> float | None:
        try:
            self.refresh()
        except building.Interrupted:
            return None
        except (EmbankError, OSError) as error:
            # Answers stay right without an index; what it lacks is on show, and it is tried again.
            if str(error) != self._reason:
                _log.warning("the vectors of %r are scanned: %s", self._place.collection_name, error)
            self._reason = str(error)
            self._build_after_s = self._clock.monotonic() + _RETRY_S
        return None

    def _bring_up_to_date(self, row: Row, rows: Rows, dead: Mask | None, base: Base | None) -> None:
        copied = self._maker.copied(base, rows)
        covered = 0 if copied is None else copied.codes.rows
        made = self._put_in_use(row, rows, lambda: copied or self._maker.trained(row, rows, dead, going=self._is_going))
        reason = self._drift.watch(made, rows, dead, first_slot=covered, going=self._is_going)
        if copied is None or reason is None:
            return
        name, method = self._place.collection_name, made.head.method.name
        _log.info("the vector index of %r is made anew: %s", name, reason)
        self._stream.publish(IndexDrifted(collection=name, method=method, rows=len(rows), reason=reason))
        anew = self._put_in_use(
            row, rows, lambda: self._maker.trained(row, rows, dead, going=self._is_going, replan=True)
        )
        self._drift.watch(anew, rows, dead, first_slot=0, going=self._is_going)

    def _put_in_use(self, row: Row, rows: Rows, make: Callable[[], Made]) -> Base:
        started = self._clock.monotonic()
        made = make()
        codes = made.codes
        added = len(rows) - codes.rows
        with backend(codes.method.kind).bounded(self._policy.settings.threads):
            building.fill(codes, rows, governor=self._governor, going=self._is_going)
        head = Head(
            name=self._place.name,
            sequence=row.sequence,
            rows=codes.rows,
            trained_rows=made.trained_rows,
            of_rows=made.of_rows,
            witness=saved.witness(rows, codes.rows),
            method=codes.method,
            seconds=self._clock.monotonic() - started,
        )
        with self._loading:
            base = self._base = Base(codes, head, kept=self._kept.keep(codes, head))
            self._looked_at = self._kept.signature()
        self._stream.publish(
            ViewCaughtUp(
                collection=self._place.collection_name,
                view="vector",
                sequence=row.sequence,
                rows=added,
                seconds=head.seconds,
            )
        )
        return base

    def _is_going(self) -> bool:
        return not self._closed

    def _is_due(self, row: Row, base: Base | None) -> bool:
        if self._read_only or self._policy.why_exact(row) is not None or self._clock.monotonic() < self._build_after_s:
            return False
        if base is None:
            return not self._dropped_bytes and self._policy.is_behind(row, None)
        return self._policy.is_behind(row, base.head) or self._policy.is_other(base.head)

    # --- loading ---

    def _load(self, row: Row, rows: Rows, *, wait: bool = False) -> Base | None:
        """What is saved, if it is there and new; without `wait`, `None` also while another thread loads."""
        if self._policy.why_exact(row) is not None or not self._loading.acquire(blocking=wait):
            return None
        try:
            if self._base is not None and not self._read_only:
                return self._base
            now_s = self._clock.monotonic()
            if now_s < self._load_after_s or not self._has_room():
                return None
            self._load_after_s = now_s + (_RELOAD_S if self._dropped_bytes else 0.0)
            signature = self._kept.signature()
            if signature is None or signature == self._looked_at:
                if signature is None:
                    self._dropped_bytes = 0
                return None
            self._looked_at = signature
            self._base = self._read(row, rows, wanted=wait)
            self._dropped_bytes = 0
            return self._base
        finally:
            self._loading.release()

    def _read(self, row: Row, rows: Rows, *, wanted: bool) -> Base | None:
        """The saved codes, where they are whole and of these vectors. Raises `IndexUnavailable` if `wanted`."""
        told: Head | None = None
        try:
            told = self._kept.head()
            if told is None or not self._is_of(told, row, rows):
                return None
            with self._reserved(told):
                codes, told = self._kept.load()
        except IndexUnavailable as error:
            self._tell("vector index" if told is None else told.method.name, error)
            if wanted:
                raise
            return None
        except MissingExtra as error:
            self._reason = str(error)
            return None
        except (OSError, ValueError) as error:
            _log.warning("the vector index of %r can't be used (%s)", self._place.collection_name, error)
            return None
        except MemoryBudgetError as error:
            _log.info("the vector index of %r is not loaded: %s", self._place.collection_name, error)
            self._reason, self._looked_at = str(error), None
            self._load_after_s = self._build_after_s = self._clock.monotonic() + _RETRY_S
            return None
        self._reason = None
        return Base(codes, told, kept=True)

    def _failed(self, base: Base, error: IndexUnavailable) -> None:
        """Codes in use could not answer: they are let go, so that the next searches scan without trying them first."""
        with self._loading:
            if self._base is base:
                self._base = None
                self._tell(base.codes.name, error)

    def _tell(self, name: str, error: IndexUnavailable) -> None:
        """Say that the index is not there, and leave it in peace for a while. To be called while loading."""
        _log.warning("the vectors of %r are scanned: %s", self._place.collection_name, error)
        self._reason, self._looked_at = str(error), None
        self._load_after_s = self._build_after_s = self._clock.monotonic() + _RETRY_S
        self._stream.publish(IndexFailed(self._place.collection_name, name, str(error)))

    def _is_of(self, told: Head, row: Row, rows: Rows) -> bool:
        """Whether what is saved is of these vectors."""
        if told.name == self._place.name and (told.sequence > row.sequence or told.rows > len(rows)):
            self._looked_at = None  # of a later state than this search sees: the next one may
            return False
        if told.name != self._place.name or told.witness != saved.witness(rows, told.rows):
            _log.warning("the vector index of %r is of other vectors", self._place.collection_name)
            return False
        return True

    def _reserved(self, told: Head) -> AbstractContextManager[object]:
        if self._governor is None:
            return nullcontext()
        return self._governor.reserve("loading a vector index", told.method.held_bytes(told.rows))

    def _has_room(self) -> bool:
        if not self._dropped_bytes or self._governor is None:
            return True
        return self._governor.available_bytes() >= _RELOAD_ROOM * self._dropped_bytes

"""The vector index of a collection: a derived view that is built beside the searches and swapped in whole.

A search takes the codes that are there as they are; what was added since is scanned. The writing process builds them
in a thread of its own, extends them once too many vectors are scanned, and trains them anew once there are several
times as many as at the last training. A reading process takes what the writer saved. Codes that are missing or
damaged cost speed, never answers.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embank.errors import EmbankError, MemoryBudgetError
from embank.events.kinds import ViewCaughtUp
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.store import generations
from embank.store.collections import Row
from embank.store.index import building, faiss, saved
from embank.store.index.faiss import FaissCodes
from embank.store.index.methods import Method
from embank.store.index.protocol import Index, Mask
from embank.store.index.rescored import RescoredIndex
from embank.store.index.saved import Head
from embank.store.index.settings import Settings
from embank.store.vectors import Rows
from embank.system.background import Background
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.sqlite import Readers

_log = get_logger(__name__)

_TAIL_SHARE = 1 / 64
"""In large collections the tail may be longer: extending rewrites the file."""

_RETRAIN_FACTOR = 4
"""Trained anew once there are so many times the rows of the last training."""

_RETRY_S = 60.0
_RELOAD_S = 1.0
_RELOAD_ROOM = 2
"""After codes were dropped for want of memory, they come back when there is so many times their size."""

State = Callable[[sqlite3.Connection, Row], tuple[Rows | None, Mask | None]]
"""The vectors and tombstones as a row has them, or of a later state."""


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """Where the index lies and which truth it is derived from (`name` changes with every generation)."""

    path: Path
    name: str
    collection: int
    generation: int
    collection_name: str


@dataclass(frozen=True, slots=True)
class Base:
    """Codes in use, and what is known of them; never changed, only replaced. `kept`: they are on the disk, too."""

    codes: FaissCodes
    head: Head
    kept: bool

    def over(self, rows: Rows) -> Index:
        """The index over a picture of the vectors."""
        method = self.head.method
        exhaustive = method.kind not in {"ivf", "hnsw"}
        return RescoredIndex(self.codes, rows, depth=method.rescored, exhaustive=exhaustive)


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """What a collection is searched with. `method` is `None` while its vectors are scanned; `reason` says why."""

    kind: str
    method: str | None
    rows: int
    indexed_rows: int
    trained_rows: int
    bytes: int
    limit_bytes: int | None
    sequence: int
    loaded: bool
    seconds: float
    reason: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


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
    ) -> None:
        self._place = place
        self._readers = readers
        self._state = state
        self._settings = settings
        self._read_only = read_only
        self._files = files
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
        if base is None or (self._read_only and self._is_behind(row, base)):
            base = self._load(row, rows) or base
        if self._is_due(row, base):
            self._thread.wake()
        return None if base is None else base.over(rows)

    def status(self, row: Row) -> IndexStatus:
        """What is in use and why, without loading anything."""
        base, told = self._base, None
        try:
            told = base.head if base is not None else saved.head(self._place.path)
        except (OSError, ValueError) as error:
            reason: str | None = f"the saved index can't be read: {error}"
        else:
            reason = self._reason or self._why_exact(row)
        limit = self._limit_bytes()
        if told is None:
            return IndexStatus(
                self._settings.kind, None, row.slots, 0, 0, 0, limit, 0, loaded=False, seconds=0.0, reason=reason
            )
        return IndexStatus(
            kind=self._settings.kind,
            method=told.method.name,
            rows=row.slots,
            indexed_rows=told.rows,
            trained_rows=told.trained_rows,
            bytes=told.method.held_bytes(told.rows),
            limit_bytes=limit,
            sequence=told.sequence,
            loaded=base is not None,
            seconds=told.seconds,
            reason=self._reason,
        )

    # --- building ---

    def wake(self, row: Row) -> None:
        """Have the index brought up to date in the background, if it is due."""
        if self._is_due(row, self._base):
            self._thread.wake()

    def refresh(self) -> None:
        """Bring the index up to date now, if it is due.

        Raises `BudgetExceeded`, `InvalidInput` for too few vectors, `MissingExtra`, and `Interrupted` when closed.
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
        started = self._clock.monotonic()
        undo = faiss.bounded_threads(self._settings.threads)
        try:
            codes, trained, of_rows = self._copy(base, rows) or self._trained(rows, dead)
            added = len(rows) - codes.rows
            building.fill(codes, rows, governor=self._governor, going=lambda: not self._closed)
        finally:
            undo()
        head = Head(
            name=self._place.name,
            sequence=row.sequence,
            rows=codes.rows,
            trained_rows=trained,
            of_rows=of_rows,
            witness=saved.witness(rows, codes.rows),
            method=codes.method,
            seconds=self._clock.monotonic() - started,
        )
        with self._loading:
            self._base = Base(codes, head, kept=self._keep(codes, head))
        self._stream.publish(
            ViewCaughtUp(
                collection=self._place.collection_name,
                view="vector",
                sequence=row.sequence,
                rows=added,
                seconds=head.seconds,
            )
        )

    def _copy(self, base: Base | None, rows: Rows) -> tuple[FaissCodes, int, int] | None:
        """Codes to be extended: those in use are being searched; `None` where they must be made anew."""
        if base is None or not base.kept or not self._fits_still(base, rows):
            return None
        building.check_budget(base.head.method, len(rows), self._limit_bytes())
        try:
            return saved.load(self._place.path)[0], base.head.trained_rows, base.head.of_rows
        except (OSError, ValueError) as error:
            _log.warning("the saved vector index of %r is gone (%s): rebuilding", self._place.collection_name, error)
            return None

    def _trained(self, rows: Rows, dead: Mask | None) -> tuple[FaissCodes, int, int]:
        method = self._method(rows, dead)
        building.check_budget(method, len(rows), self._limit_bytes())
        return *building.trained(method, rows, dead=dead, governor=self._governor), len(rows)

    def _keep(self, codes: FaissCodes, head: Head) -> bool:
        try:
            self._files.make_directory(self._place.path.parent)
            saved.save(self._place.path, codes, head, files=self._files)
            self._looked_at = self._signature()
        except OSError as error:  # it works all the same, but can't be dropped, and must be built after a restart
            _log.warning("the vector index of %r is not saved: %s", self._place.collection_name, error)
            return False
        return True

    def _method(self, rows: Rows, dead: Mask | None) -> Method:  # noqa: ARG002 -- the plan measures
        kind = "pq-fastscan" if self._settings.kind == "auto" else self._settings.kind
        return self._settings.method(kind, rows.codec.dimension, len(rows))

    def _fits_still(self, base: Base, rows: Rows) -> bool:
        """Whether the codes may be extended, rather than made anew."""
        kind = self._settings.kind
        if len(rows) > _RETRAIN_FACTOR * base.head.of_rows:
            return False
        return (
            kind == "auto" or self._settings.method(kind, rows.codec.dimension, base.head.of_rows) == base.head.method
        )

    def _is_due(self, row: Row, base: Base | None) -> bool:
        if self._read_only or self._why_exact(row) is not None or self._clock.monotonic() < self._build_after_s:
            return False
        return self._is_behind(row, base) and not (base is None and self._dropped_bytes)

    def _is_behind(self, row: Row, base: Base | None) -> bool:
        covered = 0 if base is None else base.codes.rows
        return row.slots - covered > max(self._settings.tail_rows, int(covered * _TAIL_SHARE))

    def _why_exact(self, row: Row) -> str | None:
        settings = self._settings
        if settings.kind == "exact":
            return "index.kind is exact"
        if settings.kind == "auto" and row.slots < settings.exact_below_rows:
            return f"{row.slots:,} vectors are scanned as fast, below index.exact_below_rows = {settings.exact_below_rows:,}"
        if row.slots <= settings.tail_rows:
            return f"{row.slots:,} vectors are the tail that is scanned, up to index.tail_rows = {settings.tail_rows:,}"
        return None

    def _limit_bytes(self) -> int:
        # Without a governor there is no budget to take a share of: then only an amount in bytes is a limit.
        whole = 1 << 62 if self._governor is None else self._governor.budget_bytes
        return self._settings.budget.resolve(whole)

    # --- loading ---

    def _load(self, row: Row, rows: Rows, *, wait: bool = False) -> Base | None:
        """What is saved, if it is there and new; without `wait`, `None` also while another thread loads."""
        if self._why_exact(row) is not None or not self._loading.acquire(blocking=wait):
            return None
        try:
            if self._base is not None and not self._read_only:
                return self._base
            now_s = self._clock.monotonic()
            if now_s < self._load_after_s or not self._has_room():
                return None
            self._load_after_s = now_s + (_RELOAD_S if self._dropped_bytes else 0.0)
            signature = self._signature()
            if signature is None or signature == self._looked_at:
                if signature is None:
                    self._dropped_bytes = 0
                return None
            self._looked_at = signature
            self._base = self._read(row, rows)
            self._dropped_bytes = 0
            return self._base
        finally:
            self._loading.release()

    def _read(self, row: Row, rows: Rows) -> Base | None:
        """The saved codes, where they are whole and of these vectors."""
        try:
            told = saved.head(self._place.path)
            if told is None or told.name != self._place.name:
                return None
            if told.sequence > row.sequence or told.rows > len(rows):
                self._looked_at = None  # of a later state than this search sees: the next one may
                return None
            if told.witness != saved.witness(rows, told.rows):
                raise ValueError("it is of other vectors")
            if not faiss.available():
                return None
            reserved = None
            if self._governor is not None:
                reserved = self._governor.reserve("loading a vector index", told.method.held_bytes(told.rows))
            try:
                codes, told = saved.load(self._place.path)
            finally:
                if reserved is not None:
                    reserved.release()
        except (OSError, ValueError) as error:
            _log.warning("the vector index of %r can't be used (%s)", self._place.collection_name, error)
            return None
        except MemoryBudgetError as error:
            _log.info("the vector index of %r is not loaded: %s", self._place.collection_name, error)
            self._reason, self._looked_at = str(error), None
            self._load_after_s = self._build_after_s = self._clock.monotonic() + _RETRY_S
            return None
        return Base(codes, told, kept=True)

    def _has_room(self) -> bool:
        if not self._dropped_bytes or self._governor is None:
            return True
        return self._governor.available_bytes() >= _RELOAD_ROOM * self._dropped_bytes

    def _signature(self) -> tuple[int, int] | None:
        try:
            found = self._place.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

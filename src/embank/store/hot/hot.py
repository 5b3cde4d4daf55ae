"""The hot tier of one collection: what is read most is counted, copied on demand, and answered from if that is wanted.

A tier is a derived view: it can be thrown away and made anew at any time. It belongs to a generation; a compaction or a
re-embedding leaves the collection without one until it is made again. What was deleted or written anew since it was
made is not answered from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from embank.errors import BankReadOnly
from embank.events.kinds import HotTierRebuilt
from embank.events.stream import Stream
from embank.memory.governor import Governor, Registration
from embank.memory.priority import bulk_work
from embank.store.codec import Codec
from embank.store.collections import Row
from embank.store.hot import tier as tiers
from embank.store.hot.accesses import Accesses
from embank.store.hot.counts import Counted
from embank.store.hot.reports import HotReport, HotStatus
from embank.store.hot.settings import Settings
from embank.store.hot.tier import Head, Tier
from embank.store.index import annoy
from embank.store.index.protocol import Float32, Mask, Neighbors, Slots
from embank.store.snapshot import Snapshot
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.log import get_logger

_log = get_logger(__name__)

_Signature = tuple[int, int]
"""(inode, time of change) of what a tier says of itself."""

OnHotProgress = Callable[[HotReport], None]
Place = Callable[[Row], tuple[Path, str]]
"""Where the tier of a generation lies, and the name of the truth that it is derived from."""


class HotTier:
    """See the package. Thread-safe; also a memory consumer. It may be of a collection that does not exist yet."""

    def __init__(
        self,
        collection: str,
        snapshot: Callable[[], AbstractContextManager[Snapshot]],
        place: Place,
        accesses: Accesses,
        *,
        settings: Settings,
        read_only: bool,
        files: Files,
        clock: Clock,
        stream: Stream,
        governor: Governor | None,
    ) -> None:
        self._collection = collection
        self._snapshot = snapshot
        self._place = place
        self._accesses = accesses
        self._settings = settings
        self._read_only = read_only
        self._files = files
        self._clock = clock
        self._stream = stream
        self._governor = governor
        self._trees = settings.trees if annoy.available() else 0
        self._guard = threading.Lock()
        self._building = threading.Lock()
        self._tier: Tier | None = None
        self._looked_at: _Signature | None = None
        self._refused: _Signature | None = None  # of a tier that can't be used
        self._reason: str | None = None
        self._registration: Registration | None = None
        self._closed = False

    # --- a memory consumer ---

    @property
    def name(self) -> str:
        return f"hot tier {self._collection}"

    def used_bytes(self) -> int:
        tier = self._tier
        return self._accesses.used_bytes() + (0 if tier is None else tier.used_bytes())

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 -- the tier goes whole; counts can't be had again
        if not self._guard.acquire(blocking=False):  # whoever loads it may be the one that asks
            return 0
        try:
            tier, self._tier = self._tier, None
        finally:
            self._guard.release()
        return 0 if tier is None else tier.used_bytes()

    def rebuild_cost(self) -> float:
        return 0.01  # its file is read again and checked, some megabytes for each that it holds

    # --- counting ---

    def touch(self, ids: Iterable[str]) -> None:
        """Count an access of each of these documents."""
        self._accesses.add(ids)
        if self._registration is None and self._governor is not None:
            self._register()

    def top(self, limit: int | None = None) -> list[Counted]:
        """The most accessed documents, first, with how far their counts may be wrong."""
        return self._accesses.top(limit)

    # --- answering ---

    def answer(self, row: Row, query: Float32, k: int, *, allowed: Mask | None) -> Neighbors | None:
        """The `k` nearest passages of the tier, of the state of `row`; `None` where it has no `k` of them, or is none.

        `query` is float32, normalised, shape (dimension,); `allowed` has shape (row.slots,).
        """
        tier = self._tier_of(row)
        return None if tier is None else tier.search(query, k, allowed=allowed, below=row.slots)

    @property
    def answers(self) -> bool:
        """Whether searches may be answered from it where the index is missing."""
        return self._settings.answers == "when_degraded"

    def status(self) -> HotStatus:
        """What is counted and what the tier holds. Raises `CollectionNotFound`."""
        with self._snapshot() as snapshot:
            row = snapshot.row
        total, counted, floor = self._accesses.figures()
        reason = self._reason
        try:
            head = tiers.head_of(self._place(row)[0])
        except (OSError, ValueError) as error:
            head, reason = None, f"the tier that was kept can't be used: {error}"
        return HotStatus(
            collection=self._collection,
            accesses=total,
            counted=counted,
            counters=self._accesses.counters,
            uncounted_most=floor,
            answers=self._settings.answers,
            at=None if head is None else head.at,
            documents=0 if head is None else head.documents,
            rows=0 if head is None else head.rows,
            bytes=0 if head is None else head.bytes,
            sequence=0 if head is None else head.sequence,
            behind=0 if head is None else row.sequence - head.sequence,
            searched=None if head is None else head.searched,
            loaded=self._tier is not None,
            reason=reason,
        )

    # --- making it anew ---

    def rebuild(self, *, dry_run: bool = False, on_progress: OnHotProgress | None = None) -> HotReport:
        """Copy the passages of the most accessed documents into a new tier, and put it in use.

        Searches and writes go on meanwhile; cut short, the tier is what it was. Where nothing that is there was ever
        counted, nothing is done. Raises `CollectionNotFound`, `BankReadOnly`, `BudgetExceeded`, and `OSError` of the
        disk.
        """
        if self._read_only and not dry_run:
            raise BankReadOnly(f"the hot tier of {self._collection!r} is made by the process that writes the bank")
        with self._building, bulk_work(), self._snapshot() as snapshot:
            started = self._clock.monotonic()
            codec = snapshot.codec
            report = HotReport(self._collection, "nothing to do", sequence=snapshot.info.sequence)
            gone: list[str] = []
            slots = np.empty(0, np.int64) if codec is None else self._choose(snapshot, codec, report, gone)
            if codec is None or not len(slots):
                return report
            if dry_run:
                return replace(report, outcome="would rebuild")
            with self._reserved(tiers.building_bytes(codec, len(slots), trees=self._trees)):
                tier = self._build(snapshot, slots, codec, report, on_progress)
            report.bytes, report.outcome = tier.head.bytes, "rebuilt"
            report.seconds = self._clock.monotonic() - started
            home, _ = self._place(snapshot.row)
        with self._guard:
            self._tier, self._refused, self._reason = tier, None, None
            self._looked_at = _signature(home)
        self._register()
        self._accesses.forget(gone)
        self._accesses.save()
        self._stream.publish(
            HotTierRebuilt(
                collection=self._collection,
                sequence=report.sequence,
                documents=report.documents,
                rows=report.rows,
                bytes=report.bytes,
                searched=tier.head.searched,
                seconds=report.seconds,
            )
        )
        return report

    def discard(self) -> None:
        """Forget what was counted: the collection is no more. To be closed behind it."""
        self._accesses.discard()

    def close(self) -> None:
        """Write what was counted, and let the tier go."""
        self._accesses.close()
        with self._guard:
            self._closed = True
            registration, self._registration = self._registration, None
            self._tier = None
        if registration is not None:
            registration.close()

    # --- inside ---

    def _choose(self, snapshot: Snapshot, codec: Codec, report: HotReport, gone: list[str]) -> Slots:
        """The slots of the most accessed documents, as many as there is room for, ascending.

        `gone` takes the names of documents that were counted and are no more.
        """
        limit_bytes = self._settings.budget.resolve(self._governor.budget_bytes if self._governor else 1 << 62)
        one = tiers.row_bytes(codec, trees=self._trees)
        room = min(self._settings.rows, int(limit_bytes / one))
        counted = self._accesses.top()
        passages = snapshot.slots_of(each.name for each in counted)
        gone += [each.name for each in counted if each.name not in passages]
        report.gone = len(gone)
        chosen: list[int] = []
        too_large = 0
        for each in counted:
            slots = passages.get(each.name, [])
            if not slots:
                continue
            if len(slots) > room - len(chosen):
                too_large += 1
                continue
            chosen += slots
            report.documents, report.coolest = report.documents + 1, each
            report.too_large = too_large
            if len(chosen) == room:
                break
        report.accesses = self._accesses.figures()[0]
        report.rows, report.bytes = len(chosen), int(len(chosen) * one)
        report.searched = "annoy" if self._trees else "scan"
        return np.sort(np.asarray(chosen, np.int64))

    def _build(
        self, snapshot: Snapshot, slots: Slots, codec: Codec, report: HotReport, on_progress: OnHotProgress | None
    ) -> Tier:
        def copied(rows: int) -> None:
            report.copied = rows
            if on_progress is not None:
                on_progress(report)

        home, name = self._place(snapshot.row)
        head = Head(
            name=name,
            folder="",
            sequence=snapshot.info.sequence,
            documents=report.documents,
            rows=len(slots),
            bytes=0,
            searched="scan",
            checksum=0,
            at=self._clock.now(),
            seconds=0.0,
        )
        return tiers.build(
            home,
            slots,
            snapshot.records,
            codec=codec,
            metric=snapshot.row.info.metric,
            head=head,
            trees=self._trees,
            files=self._files,
            on_rows=copied,
        )

    def _tier_of(self, row: Row) -> Tier | None:
        """The tier of that generation as it was kept last."""
        home, name = self._place(row)
        codec, tier, signature = row.codec(), self._tier, _signature(home)
        if tier is not None and tier.head.name == name and signature == self._looked_at:
            return tier
        if codec is None or signature is None or signature == self._refused:
            return None
        if not self._guard.acquire(blocking=False):  # another thread loads it
            return None
        try:
            tier = tiers.load(home, name, codec=codec, metric=row.info.metric, files=self._files)
            self._tier, self._looked_at, self._reason = tier, signature, None
        except (OSError, ValueError) as error:
            _log.warning("the hot tier of %r can't be used (%s): make it anew", self._collection, error)
            self._refused, self._reason = signature, f"the tier that was kept can't be used: {error}"
            return None
        finally:
            self._guard.release()
        self._register()
        return tier

    def _reserved(self, wanted_bytes: int) -> AbstractContextManager[object]:
        return nullcontext() if self._governor is None else self._governor.reserve("making a hot tier", wanted_bytes)

    def _register(self) -> None:
        with self._guard:
            if self._governor is not None and self._registration is None and not self._closed:
                self._registration = self._governor.register(self)


def _signature(home: Path) -> _Signature | None:
    try:
        found = (home / tiers.HEAD).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns

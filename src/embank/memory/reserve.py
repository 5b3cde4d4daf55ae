"""Reservations: bytes that work has been promised before it starts, so that many at once stay within the budget.

Covers the book of what is promised, waiting in line for it, and refusing. Does not measure or free memory itself: it is
handed a view of the room, and a way to make some.

A reservation counts in full until it is released, also when its bytes are already in use and so in the reading: that
errs on the side of the budget. Hold one for a batch, not for as long as a model lives.

Fairness: a request that fits is granted at once unless others wait; those that wait are served in the order in which
they began to. A request that can't wait is refused while others do, even where it would fit, since it would take what
the first in line is waiting for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from embank.errors import BudgetExceeded, InvalidInput
from embank.memory.roster import SLICE_S
from embank.system.clock import Clock


class Reservation:
    """A promise of `granted_bytes`, kept until `release` or the end of the `with` block. Releasing again does nothing.

    Thread-safe; it may be released by another thread than the one that reserved.
    """

    def __init__(self, what: str, granted_bytes: int, give_back: Callable[[Reservation], None]) -> None:
        self.what = what
        self.granted_bytes = granted_bytes
        self.thread = threading.get_ident()
        self._give_back = give_back

    def release(self) -> None:
        """Give the bytes back; the next in line is served."""
        self._give_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"Reservation({self.what!r}, granted_bytes={self.granted_bytes})"


@dataclass(frozen=True, slots=True)
class Room:
    """The room as measured just now, in bytes. `left_bytes` may be negative; `most_bytes` is what could ever be had."""

    left_bytes: int
    most_bytes: int
    budget_bytes: int
    refusing: bool = False


@dataclass(slots=True, eq=False)
class _Request:
    what: str
    wanted_bytes: int
    least_bytes: int
    deadline_s: float
    relieved_at: int = -1
    """The count of released reservations when consumers were last asked for this request's sake. What reservations
    released since held may now be in somebody's cache, so that asking again can help."""


class Book:
    """See the module. Thread-safe.

    `measure` reads memory afresh; it is called with the book locked, so that what it finds and what is promised belong
    to the same moment. It must not call consumers. `relieve` is called with nothing locked.
    """

    def __init__(
        self,
        *,
        measure: Callable[[], Room],
        relieve: Callable[[int], object],
        on_refused: Callable[[BudgetExceeded], None],
        clock: Clock,
    ) -> None:
        self._measure = measure
        self._relieve = relieve
        self._on_refused = on_refused
        self._clock = clock
        self._changed = threading.Condition()
        self._held: set[Reservation] = set()
        self._line: deque[_Request] = deque()
        self._releases = 0
        self.reserved_bytes = 0
        self.granted = 0
        self.refused = 0

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return len(self._line)

    def reserve(self, what: str, wanted_bytes: int, *, least_bytes: int | None, wait_s: float) -> Reservation:
        """See `Governor.reserve`."""
        least_bytes = wanted_bytes if least_bytes is None else least_bytes
        if not 0 <= least_bytes <= wanted_bytes:
            raise InvalidInput(
                f"{what}: can't reserve {wanted_bytes} bytes and at least {least_bytes}",
                wanted_bytes=wanted_bytes,
                least_bytes=least_bytes,
            )
        request = _Request(what, wanted_bytes, least_bytes, self._clock.monotonic() + wait_s)
        try:
            return self._grant_now(request) or self._stand_in_line(request)
        except BudgetExceeded as error:  # with nothing locked, since this is told to others
            self._on_refused(error)
            raise

    def _grant_now(self, request: _Request) -> Reservation | None:
        """Grant what was asked for, whole, if it is there or consumers release it; None where it takes more."""
        with self._changed:
            room = self._measure()
            if room.refusing:
                raise self._refusal(request, room, available_bytes=0)
            if request.least_bytes > room.most_bytes:
                raise self._refusal(request, room)
            if self._line:  # those in line have had everybody asked already, and come first
                return None
            left_bytes = room.left_bytes - self.reserved_bytes
            if left_bytes >= request.wanted_bytes:
                return self._grant(request, request.wanted_bytes)
            request.relieved_at = self._releases
        self._relieve(request.wanted_bytes - left_bytes)
        return None

    def wake(self) -> None:
        """Look again at once: the budget was changed, or memory was freed."""
        with self._changed:
            self._changed.notify_all()

    def _stand_in_line(self, request: _Request) -> Reservation:
        with self._changed:
            self._line.append(request)
            try:
                while True:
                    outcome = self._wait(request)
                    if isinstance(outcome, Reservation):
                        return outcome
                    request.relieved_at = self._releases
                    with self._unlocked():
                        self._relieve(outcome)
            finally:
                self._line.remove(request)
                self._changed.notify_all()

    def _wait(self, request: _Request) -> Reservation | int:
        """Wait until the request can be granted, or until asking consumers for so many bytes may help (once more)."""
        while True:
            left_s = request.deadline_s - self._clock.monotonic()
            first = self._line[0] is request
            if first or left_s <= 0:
                room = self._measure()
                left_bytes = room.left_bytes - self.reserved_bytes
                if first and left_bytes >= request.least_bytes:
                    return self._grant(request, min(left_bytes, request.wanted_bytes))
                if left_s <= 0 or request.least_bytes > room.most_bytes:
                    raise self._refusal(request, room)
                if self._releases != request.relieved_at:
                    return request.least_bytes - left_bytes
                if all(held.thread == threading.get_ident() for held in self._held):
                    raise self._refusal(request, room)  # nobody else is left who could give anything back
            self._changed.wait(min(left_s, SLICE_S))

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        self._changed.release()
        try:
            yield
        finally:
            self._changed.acquire()

    def _grant(self, request: _Request, granted_bytes: int) -> Reservation:
        reservation = Reservation(request.what, granted_bytes, self._take_back)
        self._held.add(reservation)
        self.reserved_bytes += granted_bytes
        self.granted += 1
        return reservation

    def _take_back(self, reservation: Reservation) -> None:
        with self._changed:
            if reservation not in self._held:
                return
            self._held.remove(reservation)
            self.reserved_bytes -= reservation.granted_bytes
            self._releases += 1
            self._changed.notify_all()

    def _refusal(self, request: _Request, room: Room, *, available_bytes: int | None = None) -> BudgetExceeded:
        self.refused += 1
        if available_bytes is None:
            available_bytes = max(room.left_bytes - self.reserved_bytes, 0)
        return BudgetExceeded(
            request.what,
            wanted_bytes=request.least_bytes,
            available_bytes=available_bytes,
            budget_bytes=room.budget_bytes,
        )

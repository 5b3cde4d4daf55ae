"""Reservations: bytes that work has been promised before it starts, so that many at once stay within the budget.

Covers the book of what is promised, waiting in line for it, and refusing. Does not measure or free memory itself: it is
handed a view of the room, and a way to make some.

A reservation counts in full until it is released, also when its bytes are already in use and so in the reading: that
errs on the side of the budget. Hold one for a batch, not for as long as a model lives.

Fairness: a request that fits is granted at once unless others wait that come before it. First come those whose thread
holds a reservation already, since they end sooner for it; then interactive ones; then bulk ones; and among equals those
that came earlier. A bulk request that has waited for `bulk_patience_s` counts as interactive from then on, with its
place from when it came, so that no stream of others can starve it. A request that can't wait is refused while others
come before it, even where it would fit, since it would take what the first in line is waiting for.

While the ladder shrinks bulk work, a bulk request is granted a part of what it wants (at least what it needs), and
waits for the rung to be left: for its patience at most, or until its deadline. While the ladder refuses new work, an
interactive request is refused at once, and a bulk one, or one that waited before, when its deadline comes. Neither
stops a thread that holds a reservation already: its work is not new, and it would keep what it holds.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from embank.errors import BudgetExceeded, InvalidInput
from embank.memory.roster import SLICE_S
from embank.system.clock import Clock, Stopwatch


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
    shrinking: bool = False
    refusing: bool = False


@dataclass(slots=True, eq=False)
class _Request:
    what: str
    wanted_bytes: int
    least_bytes: int
    wait_s: float
    waited: Stopwatch
    number: int
    bulk: bool
    within: bool
    """Whether its thread held a reservation when it came, so that its work is under way already."""
    paused: bool = False
    relieved_at: int = -1
    """The count of released reservations when consumers were last asked for this request's sake. What reservations
    released since held may now be in somebody's cache, so that asking again can help."""

    def left_s(self) -> float:
        return self.wait_s - self.waited.passed_s()


class Book:
    """See the module. Thread-safe.

    `measure` reads memory afresh; it is called with the book locked, so that what it finds and what is promised belong
    to the same moment. It must not call consumers. `relieve` (bytes, what for), `on_refused` and `on_paused` are called
    with nothing locked. `shrink_to`: what bulk work is granted of what it wants while it is shrunk.
    """

    def __init__(
        self,
        *,
        measure: Callable[[], Room],
        relieve: Callable[[int, str], object],
        on_refused: Callable[[BudgetExceeded], None],
        on_paused: Callable[[str], None],
        bulk_patience_s: float,
        shrink_to: float,
        clock: Clock,
    ) -> None:
        self._measure = measure
        self._relieve = relieve
        self._on_refused = on_refused
        self._on_paused = on_paused
        self._bulk_patience_s = bulk_patience_s
        self._shrink_to = shrink_to
        self._clock = clock
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._held: set[Reservation] = set()
        self._line: list[_Request] = []
        self._releases = 0
        self.reserved_bytes = 0
        self.granted = 0
        self.refused = 0
        self.paused = 0
        self.largest_least_bytes = 0
        """The most that any work so far could not do without."""

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return len(self._line)

    def reserve(
        self, what: str, wanted_bytes: int, *, least_bytes: int | None, wait_s: float, bulk: bool = False
    ) -> Reservation:
        """See `Governor.reserve`."""
        least_bytes = wanted_bytes if least_bytes is None else least_bytes
        if not 0 <= least_bytes <= wanted_bytes:
            raise InvalidInput(
                f"{what}: can't reserve {wanted_bytes} bytes and at least {least_bytes}",
                wanted_bytes=wanted_bytes,
                least_bytes=least_bytes,
            )
        within = any(held.thread == threading.get_ident() for held in tuple(self._held))
        waited = Stopwatch(self._clock)
        request = _Request(what, wanted_bytes, least_bytes, wait_s, waited, next(self._numbers), bulk, within)
        try:
            granted = self._grant_now(request)
            if granted is not None:
                return granted
            if request.paused:
                self._on_paused(what)
            return self._stand_in_line(request)
        except BudgetExceeded as error:  # with nothing locked, since this is told to others
            self._on_refused(error)
            raise

    def wake(self) -> None:
        """Look again at once: the budget was changed, or memory was freed."""
        with self._changed:
            self._changed.notify_all()

    def renew(self) -> None:
        """Start over in the child after a fork: other threads, and what they had reserved, are in another process."""
        self._changed = threading.Condition()
        me = threading.get_ident()
        self._held = {held for held in self._held if held.thread == me}
        self._line = []
        self.reserved_bytes = sum(held.granted_bytes for held in self._held)

    def _grant_now(self, request: _Request) -> Reservation | None:
        """Grant what was asked for, whole, if it is there or consumers release it; None where it takes more."""
        with self._changed:
            room = self._measure()
            self._check_possible(request, room, new=True)
            if self._pauses(request, room):
                request.paused = True
                self.paused += 1
                return None
            if any(self._order(other) < self._order(request) for other in self._line):
                return None  # those have had everybody asked already
            left_bytes = room.left_bytes - self.reserved_bytes
            portion_bytes = self._portion(request, room)
            if left_bytes >= portion_bytes:
                return self._grant(request, portion_bytes)
            request.relieved_at = self._releases
        self._relieve(portion_bytes - left_bytes, request.what)
        return None

    def _check_possible(self, request: _Request, room: Room, *, new: bool) -> None:
        """Raise for what could never be had, and for new work while that is refused, once it has no time left."""
        if room.refusing and not request.within and (request.left_s() <= 0 or (new and not request.bulk)):
            raise self._refusal(request, room, available_bytes=0)
        if request.least_bytes > room.most_bytes:
            raise self._refusal(request, room)

    def _pauses(self, request: _Request, room: Room) -> bool:
        """Whether it has to wait for pressure to fall, whatever is there."""
        if request.within or request.left_s() <= 0:
            return False
        return room.refusing or (room.shrinking and request.bulk and not self._is_due(request))

    def _portion(self, request: _Request, room: Room) -> int:
        """What is granted at most."""
        if not request.bulk or not room.shrinking:
            return request.wanted_bytes
        return max(int(request.wanted_bytes * self._shrink_to), request.least_bytes)

    def _is_due(self, request: _Request) -> bool:
        return request.waited.passed_s() >= self._bulk_patience_s

    def _order(self, request: _Request) -> tuple[bool, bool, int]:
        return not request.within, request.bulk and not self._is_due(request), request.number

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
                        self._relieve(outcome, request.what)
            finally:
                self._line.remove(request)
                self._changed.notify_all()

    def _wait(self, request: _Request) -> Reservation | int:
        """Wait until the request can be granted, or until asking consumers for so many bytes may help (once more)."""
        while True:
            left_s = request.left_s()
            first = min(self._line, key=self._order) is request
            if first or left_s <= 0:
                room = self._measure()
                self._check_possible(request, room, new=False)
                if not self._pauses(request, room):
                    left_bytes = room.left_bytes - self.reserved_bytes
                    if first and left_bytes >= request.least_bytes:
                        return self._grant(request, min(left_bytes, self._portion(request, room)))
                    if left_s <= 0:
                        raise self._refusal(request, room)
                    if self._releases != request.relieved_at:
                        return request.least_bytes - left_bytes
                    if all(held.thread == threading.get_ident() for held in self._held):
                        raise self._refusal(request, room)  # nobody else is left who could give anything back
            self._changed.wait(min(max(left_s, 0.0), SLICE_S))

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
        self.largest_least_bytes = max(self.largest_least_bytes, request.least_bytes)
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

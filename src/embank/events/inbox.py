"""The bounded queue that a stream keeps for one subscriber, and its counters.

Covers queueing, dropping and counting. Does no locking and no waking of its own: every method is called with the
stream's lock held. At all times `offered == delivered + dropped + pending`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from embank.events.kinds import Event


class Inbox:
    """Events for one subscriber, oldest first. A full one loses its oldest event for the newest.

    For a callback an event is first begun, which takes it from the queue, and ended when the callback is through with
    it; one at a time. Positions count the events ever offered, from 1.
    """

    def __init__(
        self, callback: Callable[[Event], None] | None, *, kinds: tuple[type[Event], ...] | None, capacity: int
    ) -> None:
        self.callback = callback
        self.kinds = kinds
        self.capacity = capacity
        self.closed = False
        self.offered = 0
        self.delivered = 0
        self.dropped = 0
        self.failures = 0
        self.kinds_logged: set[str] = set()
        self._queue: deque[Event] = deque()
        self._busy_position: int | None = None

    def __len__(self) -> int:
        """Events that wait; the one begun is not among them."""
        return len(self._queue)

    @property
    def pending(self) -> int:
        """Events neither dropped nor through with: those that wait, and the one begun."""
        return len(self._queue) + (self._busy_position is not None)

    @property
    def settled(self) -> int:
        """The position up to which every event is dropped or through with."""
        if self._busy_position is not None:
            return self._busy_position - 1
        return self.offered - len(self._queue)

    def offer(self, event: Event) -> bool:
        """Queue the event; False where it is of no kind that is wanted here."""
        if self.kinds is not None and not isinstance(event, self.kinds):
            return False
        oldest = None
        if len(self._queue) >= self.capacity:
            # Held until the queue is in order again: letting it go may run a finalizer that publishes.
            oldest = self._queue.popleft()
            self.dropped += 1
        self._queue.append(event)
        self.offered += 1
        del oldest
        return True

    def begin(self) -> Event | None:
        """The next event for the callback, or None where there is none."""
        if not self._queue:
            return None
        self._busy_position = self.offered - len(self._queue) + 1
        return self._queue.popleft()

    def end(self, *, failed: bool) -> None:
        """The callback is through with the event begun."""
        self._busy_position = None
        self.delivered += 1
        self.failures += failed

    def take(self, count: int | None = None) -> list[Event]:
        """Up to `count` events (all, without one), which are through with at once: for who pulls."""
        count = len(self._queue) if count is None else min(count, len(self._queue))
        self.delivered += count
        return [self._queue.popleft() for _ in range(count)]

    def close(self) -> None:
        """Want no more. What waits for a callback is dropped; what waits to be pulled stays."""
        self.closed = True
        if self.callback is not None:
            self.clear()

    def clear(self) -> None:
        """Drop what waits."""
        self.dropped += len(self._queue)
        self._queue.clear()

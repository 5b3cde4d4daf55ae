"""The one stream of events: many publishers, many subscribers, and nobody waits for anybody.

`publish` puts an event into the bounded queue of each subscription and returns; a full queue loses its *oldest* event
and counts it, so that what a subscriber sees last is what happened last. Callbacks run in one daemon thread, which
lives while there are any; a callback that fails is counted, logged once for each kind of event, and noticed by nobody
else. For every subscription, `delivered + dropped + pending` is what was published to it.

Does not keep events (a journal does) and does not guarantee delivery: what must be recorded is not left to it.

After a fork the child's stream starts empty and without subscriptions, since its thread stayed behind in the parent.
A process may exit without closing a stream; what callbacks have not seen is then lost.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import TracebackType
from typing import Self

from embank.errors import InvalidInput
from embank.events.inbox import Inbox
from embank.events.kinds import Event
from embank.system.log import get_logger

_log = get_logger(__name__)

_TURN = 64
"""Events that one callback gets in a row before the next callback has its turn."""


class Subscription:
    """A subscriber's end of the stream; made by `Stream.subscribe`; thread-safe.

    With a callback, the stream's thread calls it. Without one, the subscriber pulls: `drain` takes what is there;
    iteration waits for each next event, and ends when the subscription or the stream is closed and nothing is left.
    """

    def __init__(self, inbox: Inbox, arrived: Callable[[], threading.Condition], leave: Callable[[], None]) -> None:
        # `arrived` is asked for at each use: after a fork there is a new one.
        self._inbox = inbox
        self._arrived = arrived
        self._leave = leave

    @property
    def delivered(self) -> int:
        """Events handed over; of a callback, those that it returned from or failed at."""
        return self._inbox.delivered

    @property
    def dropped(self) -> int:
        """Events lost, because the queue was full or because a callback's subscription closed before their turn."""
        return self._inbox.dropped

    @property
    def failures(self) -> int:
        """How often the callback raised; counted among `delivered`, too."""
        return self._inbox.failures

    @property
    def pending(self) -> int:
        """Events that wait in the queue, and the one that the callback is busy with."""
        return self._inbox.pending

    @property
    def closed(self) -> bool:
        return self._inbox.closed

    def drain(self, *, wait_s: float = 0.0) -> list[Event]:
        """Take every event that waits, oldest first; where there is none, give it `wait_s` to come."""
        inbox = self._pulled()
        arrived = self._arrived()
        with arrived:
            if wait_s > 0:
                arrived.wait_for(lambda: len(inbox) > 0 or inbox.closed, wait_s)
            return inbox.take()

    def __iter__(self) -> Iterator[Event]:
        inbox = self._pulled()
        while True:
            arrived = self._arrived()
            with arrived:
                arrived.wait_for(lambda: len(inbox) > 0 or inbox.closed)
                events = inbox.take(1)
            if not events:
                return
            yield from events

    def close(self) -> None:
        """Take no more events. What a callback has not begun is dropped; what waits to be pulled can still be."""
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pulled(self) -> Inbox:
        if self._inbox.callback is not None:
            raise InvalidInput("these events go to a callback; to pull events, subscribe without one")
        return self._inbox


class Stream:
    """See the module. Thread-safe; `publish` may be called from anywhere, a callback included."""

    _lock: threading.RLock
    _published: int
    _dropped_before: int
    """What closed subscriptions had dropped."""
    _inboxes: tuple[Inbox, ...]
    _thread: threading.Thread | None
    _idle: bool
    """Whether the thread waits for work and nobody has woken it yet."""
    _closed: bool

    def __init__(self) -> None:
        self._begin()
        _streams.add(self)

    @property
    def published(self) -> int:
        """Events published so far, whether or not anybody wanted them."""
        return self._published

    @property
    def dropped(self) -> int:
        """Events dropped so far, summed over all subscriptions, closed ones included."""
        with self._lock:
            return self._dropped_before + sum(inbox.dropped for inbox in self._inboxes)

    def publish(self, event: Event) -> None:
        """Hand the event to every subscription that wants its kind. Never waits for a subscriber, never raises.

        After `close` the event is counted and goes nowhere.
        """
        with self._lock:
            self._published += 1
            wanted_by_callback = False
            for inbox in self._inboxes:
                if inbox.offer(event):
                    if inbox.callback is None:
                        self._arrived.notify_all()
                    else:
                        wanted_by_callback = True
            if wanted_by_callback and self._idle:
                self._idle = False
                self._work.notify()

    def subscribe(
        self,
        callback: Callable[[Event], None] | None = None,
        *,
        kinds: Collection[type[Event]] | None = None,
        capacity: int = 1024,
    ) -> Subscription:
        """Receive what is published from now on: all of it, or the `kinds` named and what derives from them.

        At most `capacity` events wait. Raises `InvalidInput` for a capacity below 1, and after `close`.
        """
        if capacity < 1:
            raise InvalidInput(f"capacity must be at least 1, not {capacity}", capacity=capacity)
        inbox = Inbox(callback, kinds=None if kinds is None else tuple(kinds), capacity=capacity)
        with self._lock:
            if self._closed:
                raise InvalidInput("the event stream is closed")
            if callback is not None and self._thread is None:
                thread = threading.Thread(target=self._dispatch, name="embank-events", daemon=True)
                thread.start()  # it waits for the lock
                self._thread = thread
            self._inboxes = (*self._inboxes, inbox)
        return Subscription(inbox, lambda: self._arrived, partial(self._remove, inbox))

    def flush(self, timeout_s: float) -> bool:
        """Wait until callbacks are through with what was published before; False where that took too long.

        Also False, at once, when called from a callback, which can't wait for itself.
        """
        with self._lock:
            if threading.current_thread() is self._thread:
                return False
            targets = [(inbox, inbox.offered) for inbox in self._inboxes if inbox.callback is not None]
            return self._settled.wait_for(
                lambda: all(inbox.closed or inbox.settled >= target for inbox, target in targets), timeout_s
            )

    def close(self, *, timeout_s: float = 5.0) -> bool:
        """Flush, close every subscription and end the thread; what `flush` would say. Closing again does nothing."""
        deadline_s = time.monotonic() + timeout_s
        flushed = self.flush(timeout_s)
        with self._lock:
            self._closed = True
            for inbox in self._inboxes:
                self._remove(inbox)
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(deadline_s - time.monotonic(), 0.0))
        return flushed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def renew(self) -> None:
        """Start over, empty and open, in the child after a fork; whom it was shared with is in another process now."""
        for inbox in self._inboxes:
            inbox.closed = True
            inbox.clear()
        self._begin()

    def _begin(self) -> None:
        # Re-entrant, since a garbage collection inside the lock may run a finalizer that publishes.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._published = 0
        self._dropped_before = 0
        self._inboxes = ()
        self._thread = None
        self._idle = False
        self._closed = False

    def _remove(self, inbox: Inbox) -> None:
        with self._lock:
            if inbox.closed:
                return
            inbox.close()
            self._inboxes = tuple(other for other in self._inboxes if other is not inbox)
            self._dropped_before += inbox.dropped
            for condition in (self._arrived, self._work, self._settled):
                condition.notify_all()

    def _dispatch(self) -> None:
        """The thread's life: call callbacks until none is left."""
        while True:
            with self._lock:
                busy = self._wait_for_work()
            if not busy:
                return
            for inbox in busy:
                self._deliver(inbox)

    def _wait_for_work(self) -> list[Inbox]:
        """Callbacks' inboxes that hold events; none where the thread has to end."""
        while threading.current_thread() is self._thread:
            called = [inbox for inbox in self._inboxes if inbox.callback is not None]
            if not called:
                self._thread = None
                break
            busy = [inbox for inbox in called if len(inbox) > 0]
            if busy:
                return busy
            self._idle = True
            self._work.wait()
            self._idle = False
        return []

    def _deliver(self, inbox: Inbox) -> None:
        """Call the callback with up to a turn's events."""
        callback = inbox.callback
        for _ in range(_TURN):
            with self._lock:
                event = inbox.begin()
            if event is None or callback is None:
                return
            failed = False
            try:
                callback(event)
            except BaseException:  # noqa: BLE001 - even a SystemExit in a callback must not end the others' thread
                failed = True
                if event.kind not in inbox.kinds_logged:
                    inbox.kinds_logged.add(event.kind)
                    _log.exception("a subscriber failed at %s; further failures at it are only counted", event.kind)
            with self._lock:
                inbox.end(failed=failed)
                self._settled.notify_all()


# Every stream of the process, for the one hook after a fork: hooks can't be unregistered, so one a stream would leak.
_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


def _renew_after_fork() -> None:
    for stream in list(_streams):
        stream.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)

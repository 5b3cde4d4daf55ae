"""Keeps a worker: starts it when it is needed, watches it, replaces it when it has grown, aged or idled.

One thread an engine, which lives as long as the engine: Linux takes the *thread* that made a child for its parent, and
a child that dies with its parent would else die with whoever happened to ask first. Everybody else asks for the worker
with `use`, and waits while one is being started or replaced; a worker is never replaced under a request.

A worker that is lost is told as `Lost` to those whose requests it had; trying again is theirs. After several losses
without an answer in between, the next start waits, longer each time, up to five seconds.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from embank.embed.worker.channel import Channel, Lost
from embank.embed.worker.handoff import Identity, told_request
from embank.embed.worker.loading import Loading
from embank.embed.worker.recycling import cause_of, due, look_now
from embank.embed.worker.wire import Frame, Garbled, Kind
from embank.errors import EmbeddingFailed, ModelFileError
from embank.events.kinds import WorkerEnded, WorkerStarted
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.engine import LoadRequest
    from embank.embed.worker.settings import Settings
    from embank.events.kinds import Event
    from embank.system.clock import Clock

_log = get_logger(__name__)

_TICK_S = 1.0
_FIRST_BACKOFF_S = 0.1
_MOST_BACKOFF_S = 5.0
# How long closing waits for the thread, which may be busy with a reservation.
_CLOSE_S = 10.0


class Keeper:
    """See the module. Thread-safe. `command` starts a worker; `measure` tells the anonymous bytes of a process.

    `identity`, where it is known, is what the model must turn out to be.
    """

    def __init__(
        self,
        engine: str,
        request: LoadRequest,
        *,
        settings: Settings,
        clock: Clock,
        command: Sequence[str],
        measure: Callable[[int], int],
        identity: Identity | None = None,
    ) -> None:
        self._load = told_request(engine, request)
        self._request = request
        self._settings = settings
        self._clock = clock
        self._command = command
        self._measure = measure
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards what follows, up to the blank line
        self._channel: Channel | None = None  # ready for use
        self._flight: Future[None] | None = None
        self._due = False  # the keeper is to start one
        self._retiring: str | None = None
        self._users = 0
        self._failures = 0
        self._leaving = False
        self._closed = False

        self.identity = identity
        self.starts = 0
        self.endings: Counter[str] = Counter()
        self._current: Channel | None = None  # the keeper's own: loading or ready
        self._loading: Loading | None = None
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="embank-worker-keeper", daemon=True)
        self._thread.start()

    # --- for everybody ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def use(self) -> Iterator[Channel]:
        """The ready worker, not to be replaced meanwhile; started by this thread's wish, or awaited.

        Raises `Lost` where it can't be started or is lost at once, what its load raised, and `EmbeddingFailed` when
        this keeper is closed or belongs to another process.
        """
        channel = self._enter()
        try:
            yield channel
        except Lost:
            raise
        except Exception:
            self._answered(channel)  # with an error, but answered
            raise
        else:
            self._answered(channel)
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0 and self._retiring is not None:
                    self._wake()

    def used_bytes(self) -> int:
        """Anonymous bytes of the worker now, also while it loads; 0 where there is none."""
        channel = self._current
        return 0 if channel is None or channel.ended.is_set() else channel.sample()

    def pid(self) -> int | None:
        """The worker's process id; None where there is none."""
        channel = self._current
        return None if channel is None or channel.ended.is_set() else channel.pid

    def recycle(self, cause: str = "asked") -> int:
        """End the worker as soon as its batches are done; the bytes that it held, as measured. Requests wait.

        0 where there is none, where one is being loaded, and where the keeper's own thread asks.
        """
        with self._changed:
            channel = self._channel
            if channel is None or threading.current_thread() is self._thread:
                return 0
            self._retire(cause)
        settings = self._settings
        done = channel.ended.wait(settings.deadline_s + settings.heartbeat_s + _CLOSE_S)
        return channel.freed_bytes if done else 0

    def hand_over(self) -> int:
        """Take no more requests (`EmbeddingFailed`), end those under way and the worker; the bytes that it held."""
        with self._changed:
            self._leaving = True
        freed_bytes = self.recycle("replaced")
        self.close()
        return freed_bytes

    def tend(self) -> None:
        """Have the keeper look now whether the worker hangs, or is due to be replaced. It does so every second."""
        self._wake()

    def close(self) -> None:
        """End the worker and the thread. Whoever waits or comes later gets `EmbeddingFailed`."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._wake()
        if threading.current_thread() is not self._thread and os.getpid() == self._pid:
            self._thread.join(_CLOSE_S)

    # --- for whoever asks -------------------------------------------------------------------------------------------

    def _enter(self) -> Channel:
        if os.getpid() != self._pid:
            raise EmbeddingFailed(
                f"the model {self._request.name!r} was opened before this process was forked, and its worker is the "
                f"other process's: open the model after the fork",
                model=self._request.name,
            )
        while True:
            with self._changed:
                self._changed.wait_for(self._settled)
                if self._closed or self._leaving:
                    raise self._closed_error()
                if self._channel is not None:
                    self._users += 1
                    return self._channel
                flight, leads = self._flight, self._flight is None
                if flight is None:
                    flight = self._flight = Future()
                wait_s = self._backoff_s()
            if leads:
                self._ask_for_one(flight, wait_s)
            # Raises what the start raised, in every thread that waited for it.
            flight.result()

    def _settled(self) -> bool:
        """Whether nothing has to be waited for: one that is retired or lost is first to be gone."""
        is_lost = self._channel is not None and self._channel.lost is not None
        return self._closed or (self._retiring is None and not is_lost)

    def _ask_for_one(self, flight: Future[None], wait_s: float) -> None:
        try:
            if wait_s:
                self._clock.sleep(wait_s)
        except BaseException:
            # Ctrl-C is this thread's alone: the others ask again.
            with self._changed:
                self._flight = None
            flight.set_result(None)
            raise
        with self._changed:
            self._due = True
            self._wake()

    def _backoff_s(self) -> float:
        """The first time at once: one crash is no loop."""
        if self._failures < 2:
            return 0.0
        return float(min(_FIRST_BACKOFF_S * 2 ** min(self._failures - 2, 10), _MOST_BACKOFF_S))

    def _answered(self, channel: Channel) -> None:
        """After an answer: it is no crash loop, and the worker may be due."""
        with self._changed:
            self._failures = 0
            if channel is self._channel and self._retiring is None and look_now(channel, self._settings):
                self._judge(channel)

    def _closed_error(self) -> EmbeddingFailed:
        return EmbeddingFailed(f"the model {self._request.name!r} is closed", model=self._request.name)

    # --- retiring it (with the lock held) ---------------------------------------------------------------------------

    def _judge(self, channel: Channel) -> None:
        cause = due(channel, self._settings, now_s=self._clock.monotonic(), in_use=self._users > 0)
        if cause is not None:
            self._retire(cause)

    def _retire(self, cause: str) -> None:
        if self._retiring is None:
            self._retiring = cause
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed, and so is its thread
            os.eventfd_write(self._wake_fd, 1)

    # --- the keeper's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_fd, selectors.EVENT_READ)
            while not self._closed:
                try:
                    selector.select(self._tick_s())
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake_fd)
                    self._turn(selector)
                except Exception as error:  # noqa: BLE001 — nobody may be left waiting
                    _log.exception("keeping the worker of %s failed", self._request.name)
                    self._bury(selector, Lost("crash", f"its keeper failed: {error}"))
            self._bury(selector, None)
        with self._changed:
            flight, self._flight = self._flight, None
            fd, self._wake_fd = self._wake_fd, -1
        os.close(fd)
        if flight is not None:
            flight.set_exception(self._closed_error())

    def _tick_s(self) -> float | None:
        channel = self._current
        if channel is None:
            return None
        is_busy = channel.busy or self._loading is not None
        return max(min(_TICK_S, self._settings.heartbeat_s / 4), 0.01) if is_busy else _TICK_S

    def _turn(self, selector: selectors.DefaultSelector) -> None:
        channel = self._current
        if channel is None:
            if self._due:
                self._start(selector)
            return
        settings = self._settings
        frames = channel.receive()
        frames += channel.watch(deadline_s=settings.deadline_s, heartbeat_s=settings.heartbeat_s)
        for frame in frames:
            refusal = self._hear(channel, frame)
            if refusal is not None:
                self._bury(selector, refusal)
                return
        loading = self._loading
        if loading is not None and self._clock.monotonic() - loading.advanced_at_s > settings.start_timeout_s:
            channel.fail("hang", f"its load got no further for {settings.start_timeout_s:g} s (worker.start_timeout_s)")
        if channel.eof or channel.lost is not None:
            self._bury(selector, None)
            return
        with self._changed:
            if self._channel is channel and self._retiring is None:
                self._judge(channel)
            retired = self._retiring is not None and self._users == 0
        if retired:
            self._bury(selector, None)

    def _start(self, selector: selectors.DefaultSelector) -> None:
        self._due = False
        self.starts += 1
        try:
            channel = Channel(self._command, self.starts, clock=self._clock, measure=self._measure)
        except Lost as lost:
            self._settle(lost)
            return
        self._current = channel
        self._loading = Loading(self._request, first=self.identity is None, clock=self._clock)
        selector.register(channel.connection, selectors.EVENT_READ)
        # Made anew once, where that was asked for; a replacement opens what is there.
        channel.send(Kind.LOAD, body={**self._load, "anew": self._load["anew"] and self.identity is None})

    def _hear(self, channel: Channel, frame: Frame) -> Exception | None:
        """Act on one frame that is no answer; what the load raised, where it did."""
        loading = self._loading or Loading(self._request, first=False, clock=self._clock)
        try:
            identity = loading.hear(channel, frame)
            if identity is not None:
                self._check_identity(identity)
                self._ready(channel, identity)
        except Garbled as error:
            channel.fail("garbage", str(error))
        except (KeyError, TypeError) as error:
            channel.fail("garbage", f"a {frame.kind.name} lacks what belongs into it: {error}")
        except Exception as error:  # noqa: BLE001 — the load's own error, for those who wait for it
            if type(error) is not MemoryError:
                return error
            channel.fail("memory", str(error) or "an allocation failed while it loaded the model")
        return None

    def _ready(self, channel: Channel, identity: Identity) -> None:
        now_s = self._clock.monotonic()
        channel.ready_at_s = channel.used_at_s = now_s
        seconds = now_s - channel.started_at_s
        self._loading = None
        self._publish(WorkerStarted(channel.pid, seconds, channel.sample()))
        with self._changed:
            self.identity = self.identity or identity
            self._channel = channel
            flight, self._flight = self._flight, None
        if flight is not None:
            flight.set_result(None)

    def _check_identity(self, identity: Identity) -> None:
        known = self.identity
        if known is not None and known.fingerprint != identity.fingerprint:
            raise ModelFileError(
                f"the files of the model {self._request.name!r} changed while its worker was replaced: it was "
                f"{known.fingerprint} and is now {identity.fingerprint}; open it anew under a new handle",
                name=self._request.name,
            )

    def _settle(self, error: Exception) -> None:
        """Tell those who wait for a start that there is none."""
        with self._changed:
            flight, self._flight = self._flight, None
            if isinstance(error, Lost):
                self._failures += 1
        if flight is not None:
            flight.set_exception(error)

    def _publish(self, event: Event) -> None:
        """A publisher that fails is its own affair: nobody who waits for the worker may be forgotten over it."""
        try:
            self._request.publisher.publish(event)
        except Exception:  # noqa: BLE001 — see above
            _log.exception("publishing %s failed", event.kind)

    def _bury(self, selector: selectors.DefaultSelector, why: Exception | None) -> None:
        """End the current worker, if there is one, and say why; those who wait for it are told.

        `why` is what its load raised, or `Lost`; None where it was retired, or has told itself why it is lost.
        """
        channel, self._current = self._current, None
        loading, self._loading = self._loading, None
        if channel is None:
            if why is not None:
                self._settle(why)
            return
        selector.unregister(channel.connection)
        with self._changed:
            self._channel = None  # from here on nobody is given this one
        if isinstance(why, Lost):
            channel.fail(why.cause, why.detail)
        if loading is not None:
            loading.close()
        lost = channel.end()
        with self._changed:
            retiring, self._retiring = self._retiring, None
            cause, detail = cause_of(lost, why, retiring)
            self.endings[cause] += 1
            if lost is not None and loading is None:
                self._failures += 1  # of a start that failed, `_settle` counts it
            self._changed.notify_all()
        if lost is not None:
            _log.warning("the worker %d of %s was lost: %s", channel.pid, self._request.name, lost)
        self._publish(WorkerEnded(channel.pid, cause, detail, channel.peak_bytes))
        if loading is not None:
            self._settle(lost or why or Lost("start", "it was closed"))
        if self._due:
            self._wake()

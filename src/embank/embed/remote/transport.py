"""Requests to an embeddings endpoint: one bounded answer each, tried again where that can help, within a deadline.

Covers what may be sent where, pacing, waiting between attempts, time-outs, and telling of every attempt. What is in an
answer is read by whoever asks. Redirects are not followed, since a key and texts would go where nobody said; cookies
are not kept; compression is not offered, so that bytes received are the bytes there are.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from embank.embed.remote.answer import told_error
from embank.errors import ConfigError, RemoteFailed
from embank.events.kinds import RemoteRequestEnded

if TYPE_CHECKING:
    import httpx2

    from embank.embed.engine import Publisher
    from embank.embed.remote.endpoint import Endpoint
    from embank.embed.remote.settings import Settings
    from embank.system.clock import Clock

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
# A wait is looked up from so often, to see whether the call has ended otherwise.
_SLICE_S = 0.25
_ERROR_BYTES = 16 << 10

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Request(Generic[_Read]):
    """`read` makes something of the body of an answer of at most `limit_bytes`, and raises `RemoteFailed`.

    `deadline_s` is on the clock's `monotonic`; once `stopped` is set, nothing further is waited for or sent.
    """

    body: bytes
    texts: int
    limit_bytes: int
    deadline_s: float
    stopped: threading.Event
    read: Callable[[bytes], _Read]


@dataclass(frozen=True, slots=True)
class _Failure:
    """Of one attempt. `again` where another may do better, not before `after_s` seconds from now."""

    outcome: str
    what: str
    status: int | None = None
    received_bytes: int = 0
    again: bool = False
    after_s: float = 0.0
    cause: Exception | None = None


class Transport:
    """Asks one endpoint for one model. Thread-safe but for `close`, which is called when nobody uses it.

    `jitter` gives numbers from 0 to 1. Raises `ConfigError` for a key that would go unencrypted to another machine.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        *,
        model: str,
        publisher: Publisher,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._key = "" if settings.key is None else settings.key.get_secret_value()
        if self._key and not (endpoint.is_encrypted or endpoint.is_loopback):
            raise ConfigError(
                f"remote.key is not sent to {endpoint.place}, where all the network could read it: make remote.url an "
                f"https address, or leave remote.key empty",
                key="remote.url",
                place=endpoint.place,
            )
        self._model = model
        self._publisher = publisher
        self._clock = clock
        self._jitter = jitter
        self._pace = _Pace(settings.requests_per_minute, clock)
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None

    def post(self, request: Request[_Read]) -> _Read:
        """What `request.read` makes of the answer.

        Raises `RemoteFailed`: at once where trying again can't help, after the last attempt, or when the deadline comes
        first; that may be overrun by one time-out where the server sends its answer in drops.
        """
        begun_s = self._clock.monotonic()
        failure: _Failure | None = None
        for attempt in range(1, self._settings.attempts + 1):
            if not self._wait_for_turn(request):
                raise self._late(begun_s, attempt - 1, failure)
            answered = self._attempt(request, attempt)
            if not isinstance(answered, _Failure):
                return answered[0]
            failure = answered
            if not failure.again:
                raise self._refused(failure)
            pause_s = min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * (0.5 + self._jitter() / 2)
            if failure.after_s:
                self._pace.hold(self._clock.monotonic() + failure.after_s)  # it concerns every thread's requests
            until_s = self._clock.monotonic() + max(pause_s, failure.after_s)
            if attempt == self._settings.attempts:
                break
            if until_s >= request.deadline_s:
                raise self._late(begun_s, attempt, failure)
            self._sleep(until_s, request.stopped)
        assert failure is not None  # noqa: S101 - there is at least one attempt
        seconds = self._clock.monotonic() - begun_s
        tries = "once" if self._settings.attempts == 1 else f"{self._settings.attempts} times"
        raise self._error(
            f"the endpoint {self._endpoint.place} was tried {tries} in {seconds:.1f} s: it {failure.what}", failure
        ) from failure.cause

    def close(self) -> int:
        """Close the connections; whether there were any, as 0 or 1. The next request opens others."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
        return int(client is not None)

    # --- one attempt ------------------------------------------------------------------------------------------------

    def _attempt(self, request: Request[_Read], attempt: int) -> tuple[_Read] | _Failure:
        """The answer as read, in a tuple of its own, or what went wrong; told to whoever listens."""
        left_s = request.deadline_s - self._clock.monotonic()
        if not self._slots.acquire(timeout=max(left_s, 0)):
            return _Failure("timeout", "was busy with other requests of this process until remote.deadline_s was over")
        started_s = self._clock.monotonic()
        try:
            got = self._exchange(request, started_s)
        finally:
            self._slots.release()
        seconds = self._clock.monotonic() - started_s
        received = got.received_bytes if isinstance(got, _Failure) else len(got)
        outcome, status = (got.outcome, got.status) if isinstance(got, _Failure) else ("answered", 200)
        try:
            return got if isinstance(got, _Failure) else (request.read(got),)
        except RemoteFailed as error:
            outcome = error.fields["outcome"]
            raise
        finally:
            self._publisher.publish(
                RemoteRequestEnded(
                    self._model, request.texts, attempt, outcome, status, len(request.body), received, seconds
                )
            )

    def _exchange(self, request: Request[_Read], started_s: float) -> bytes | _Failure:
        import httpx2

        timeout_s = max(min(self._settings.timeout_s, request.deadline_s - started_s), 0.001)
        late = f"did not answer within {timeout_s:.3g} s"
        try:
            with self._opened().stream(
                "POST", self._endpoint.url, content=request.body, headers=self._headers(), timeout=timeout_s
            ) as response:
                is_answer = response.status_code == 200
                limit_bytes = request.limit_bytes if is_answer else _ERROR_BYTES
                content = bytearray()
                for piece in response.iter_raw():
                    content += piece
                    if len(content) > limit_bytes:
                        break
                    if self._clock.monotonic() >= started_s + timeout_s:
                        return _Failure("timeout", late, received_bytes=len(content), again=True)
                return self._judged(response, bytes(content), limit_bytes)
        except httpx2.TimeoutException as error:
            return _Failure("timeout", late, again=True, cause=error)
        except httpx2.ConnectError as error:
            # A certificate that is not trusted now will not be in a second.
            return _Failure("unreachable", f"can't be reached: {_said(error)}", again=not _is_tls(error), cause=error)
        except httpx2.TransportError as error:
            return _Failure("dropped", f"broke off: {_said(error)}", again=True, cause=error)
        except httpx2.InvalidURL as error:  # a host that no name can have
            return _Failure("refused", f"has no address that can be asked: {_said(error)}", cause=error)

    def _judged(self, response: httpx2.Response, content: bytes, limit_bytes: int) -> bytes | _Failure:
        """The body of a success, or what its status says."""
        status, received = response.status_code, len(content)
        if status == 200:
            if received > limit_bytes:
                what = f"answered with more than the {limit_bytes} bytes that these texts' vectors can take"
                return _Failure("too_large", what, status, received)
            coding = response.headers.get("content-encoding", "identity")
            if coding.strip().lower() not in ("", "identity"):
                return _Failure("garbage", f"answered in the coding {coding[:40]!r}, unasked", status, received)
            return content
        told = self._redacted(told_error(content[:_ERROR_BYTES]))
        what = f"answered with the status {status}{f': {told}' if told else ''}"
        if 300 <= status < 400:
            place = self._redacted(response.headers.get("location", "")).partition("?")[0][:200]
            what = (
                f"sent us on to {place!r} ({status}), where nobody told us to go: set remote.url to the right address"
            )
            return _Failure("redirected", what, status, received)
        if status in {408, 429} or status >= 500:
            outcome = {429: "rate_limited", 408: "timeout"}.get(status, "server_error")
            after_s = self._retry_after_s(response.headers.get("retry-after", ""))
            return _Failure(outcome, what, status, received, again=True, after_s=after_s)
        return _Failure("refused", f"{what}{_ADVICE.get(status, '')}", status, received)

    def _retry_after_s(self, text: str) -> float:
        """Seconds, or the time until a date (RFC 9110, 10.2.3); 0 for anything else."""
        from email.utils import parsedate_to_datetime

        if text.strip().isdecimal() and text.isascii():
            return float(text[:9])
        try:
            return max(parsedate_to_datetime(text).timestamp() - self._clock.now(), 0.0)
        except (ValueError, OverflowError):
            return 0.0

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        return {**headers, "Authorization": f"Bearer {self._key}"} if self._key else headers

    def _opened(self) -> httpx2.Client:
        with self._lock:
            if self._client is None:
                self._client = _client(self._endpoint, self._settings.concurrency)
            return self._client

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _wait_for_turn(self, request: Request[_Read]) -> bool:
        """Whether the deadline leaves time for it; returns when the request may be sent."""
        turn_s = self._pace.turn(request.deadline_s)
        while turn_s is not None and turn_s < request.deadline_s:
            self._sleep(turn_s, request.stopped)
            turn_s = self._pace.held_s  # somebody may have been told to wait meanwhile
            if turn_s <= self._clock.monotonic():
                return self._clock.monotonic() < request.deadline_s
        return False

    def _sleep(self, until_s: float, stopped: threading.Event) -> None:
        while True:
            if stopped.is_set():
                raise RemoteFailed("stopped, since another request of the same call failed", outcome="stopped")
            left_s = until_s - self._clock.monotonic()
            if left_s <= 0:
                return
            self._clock.sleep(min(left_s, _SLICE_S))

    # --- errors -----------------------------------------------------------------------------------------------------

    def _late(self, begun_s: float, attempts: int, failure: _Failure | None) -> RemoteFailed:
        seconds = self._clock.monotonic() - begun_s
        last = "" if failure is None else f"; tried {attempts} times in {seconds:.1f} s, it last {failure.what}"
        if failure is not None and failure.after_s:
            last += f" (and asks to wait {failure.after_s:.0f} s)"
        error = self._error(
            f"remote.deadline_s ({self._settings.deadline_s:g} s) leaves no time for the endpoint "
            f"{self._endpoint.place}{last}: raise it, or embed fewer texts a call",
            failure or _Failure("deadline", "was not asked"),
        )
        error.fields["outcome"] = "deadline"
        return error

    def _refused(self, failure: _Failure) -> RemoteFailed:
        return self._error(f"the endpoint {self._endpoint.place} {failure.what}", failure)

    def _error(self, message: str, failure: _Failure) -> RemoteFailed:
        return RemoteFailed(
            message, model=self._model, place=self._endpoint.place, outcome=failure.outcome, status=failure.status
        )

    def _redacted(self, text: str) -> str:
        """Some servers say which key they did not like."""
        return text.replace(self._key, "***") if self._key else text


class _Pace:
    """When the next request may be sent: evenly spaced, and not before the server said. Thread-safe."""

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._interval_s = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._next_s = 0.0
        self.held_s = 0.0

    def turn(self, deadline_s: float) -> float | None:
        """A turn that is now the caller's, on the clock's `monotonic`; None where it would come after the deadline."""
        with self._lock:
            turn_s = max(self._next_s, self.held_s, self._clock.monotonic())
            if turn_s >= deadline_s:
                return None
            self._next_s = turn_s + self._interval_s
            return turn_s

    def hold(self, until_s: float) -> None:
        with self._lock:
            self.held_s = max(self.held_s, until_s)


_ADVICE = {
    401: ": is remote.key (EMBANK_REMOTE__KEY) right?",
    403: ": is remote.key (EMBANK_REMOTE__KEY) right?",
    404: ": is remote.url (EMBANK_REMOTE__URL) right, and the model's name?",
    413: ": lower remote.batch_texts or remote.batch_bytes",
    422: ": lower remote.batch_texts if it takes fewer at once",
}


def _client(endpoint: Endpoint, concurrency: int) -> httpx2.Client:
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx2

    return httpx2.Client(
        # Certificates are not so much as read where none will be shown.
        verify=endpoint.is_encrypted,
        # Proxies as everything else on this machine uses them, but not on the way to the machine itself.
        trust_env=not endpoint.is_loopback,
        follow_redirects=False,
        limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_tls(error: BaseException | None) -> bool:
    """Whether it comes of setting up the encryption."""
    import ssl

    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False

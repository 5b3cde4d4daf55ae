"""What happens to the service: requests answered, long jobs, keys."""

from __future__ import annotations

from dataclasses import dataclass

from embank.events.event import Event


@dataclass(frozen=True, slots=True)
class RequestAnswered(Event):
    """A request got its answer. `route` is the path with its names left open, so that there are few of them.

    `status` 499: the caller went away before there was an answer. `key` is the id of the API key, where one was given;
    `traceparent` the caller's own trace (W3C Trace Context), where it told one.
    """

    method: str
    route: str
    status: int
    seconds: float
    request_id: str
    received_bytes: int
    key: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class JobEnded(Event):
    """Long work ended: `state` is "done", "failed" or "cancelled"."""

    job: str
    work: str
    collection: str | None
    state: str
    seconds: float


@dataclass(frozen=True, slots=True)
class KeysChanged(Event):
    """The API keys in force are others than before: `keys` there are, `added` and `revoked` since."""

    keys: int
    added: int
    revoked: int


@dataclass(frozen=True, slots=True)
class ServiceStarted(Event):
    """The service listens at `endpoint`."""

    endpoint: str
    keys: int


@dataclass(frozen=True, slots=True)
class ServiceDraining(Event):
    """The service takes no new work and waits for what is under way: `requests` and `jobs`."""

    requests: int
    jobs: int

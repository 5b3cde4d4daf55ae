"""What every kind of event is: frozen facts with the time at which they happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

# A property of the task or thread that works, as its name is; not a setting.
_request: ContextVar[str | None] = ContextVar("embank_request", default=None)


@contextmanager
def within_request(id_: str) -> Iterator[None]:
    """Events of this task, and of threads that take its context over, happen during the request `id_`."""
    token = _request.set(id_)
    try:
        yield
    finally:
        _request.reset(token)


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all kinds. `at` is wall time in seconds since the epoch: now, unless the publisher's clock says so.

    `during` is the id of the service's request that it happened in, or that began the job that it happened in.
    """

    at: float = field(default_factory=time.time, kw_only=True)
    during: str | None = field(default_factory=_request.get, kw_only=True)

    @property
    def kind(self) -> str:
        """The class's name."""
        return type(self).__name__

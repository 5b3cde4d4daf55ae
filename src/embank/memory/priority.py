"""Whether the work of this thread is interactive, so that somebody waits for it, or bulk, which may take its time.

It is said once, around the work, and every reservation within takes it over: between a run over a source and the batch
that its model computes lies the protocol of models, which knows nothing of it. Threads begin interactive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Priority = Literal["interactive", "bulk"]

# A property of the thread (or task) that works, as its name is; not a setting.
_current: ContextVar[Priority] = ContextVar("embank_memory_priority", default="interactive")


def current() -> Priority:
    """The priority of this thread's work."""
    return _current.get()


@contextmanager
def bulk_work() -> Iterator[None]:
    """Within the block, reservations of this thread are bulk work's, unless they say otherwise."""
    token = _current.set("bulk")
    try:
        yield
    finally:
        _current.reset(token)

"""One search for many that ask the same at once: the first makes it, the others wait for what it finds.

What was found is of the state in which the first one looked. Who began later and knows of a newer state takes it for
no answer and asks again, so that nobody gets less than what was acknowledged before he asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from embank.store.info import CollectionInfo

V = TypeVar("V")


class Flight(Generic[V]):
    """One search under way."""

    __slots__ = ("_done", "error", "of", "value", "waiting")

    def __init__(self, of: CollectionInfo) -> None:
        self._done = threading.Event()
        self.of = of
        """The state that it began in; once it has landed, the one that the answer is of."""
        self.value: V | None = None
        self.error: Exception | None = None
        self.waiting = 0

    def land(self) -> None:
        """Let those go who wait."""
        self._done.set()

    def wait(self) -> None:
        self._done.wait()


class Flights(Generic[V]):
    """Those of one bank. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[bytes, Flight[V]] = {}

    def waiting(self, key: bytes) -> int:
        """How many wait for the search of that key."""
        with self._lock:
            flight = self._under_way.get(key)
            return 0 if flight is None else flight.waiting

    def ask(self, key: bytes, info: CollectionInfo, make: Callable[[], tuple[CollectionInfo, V]]) -> tuple[V, bool]:
        """What `make` gives, or gave another thread of a state no older than `info`; and whether it was made here.

        `make` says which state the value is of. What it raises is raised for all who wait; not so what only ends this
        thread's work, such as KeyboardInterrupt: then one of the others makes it.
        """
        while True:
            with self._lock:
                flight = self._under_way.get(key)
                leads = flight is None
                if flight is None:
                    flight = self._under_way[key] = Flight(info)
                else:
                    flight.waiting += 1
            if leads:
                return self._lead(key, flight, make), True
            flight.wait()
            if flight.error is not None and _as_new(flight.of, info):
                raise flight.error
            if flight.value is not None and _as_new(flight.of, info):
                return flight.value, False

    def _lead(self, key: bytes, flight: Flight[V], make: Callable[[], tuple[CollectionInfo, V]]) -> V:
        try:
            flight.of, flight.value = make()
        except Exception as error:
            flight.error = error
            raise
        else:
            return flight.value
        finally:
            with self._lock:
                del self._under_way[key]
            flight.land()


def _as_new(of: CollectionInfo, info: CollectionInfo) -> bool:
    """Whether a state is of the same collection and no older."""
    return of.created == info.created and of.sequence >= info.sequence

"""A second level: slower, shared between processes or surviving them; and what keeps its failures from anybody.

`SecondLevel` is what such a level does. It sees keys and rows as the slab holds them, never a text, and may raise
anything. `Breaker` stands in front of one: whatever it raises is a miss, counted, logged once until it works again;
after a few failures in a row it is left alone for a while, then tried with one call, and left alone for longer where
that fails, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from embank.cache.codec import Rows
from embank.cache.keys import Keys
from embank.cache.stats import SecondStats
from embank.system.clock import Clock
from embank.system.log import get_logger

__all__ = ["Breaker", "Keys", "SecondLevel", "SecondStats"]

_log = get_logger(__name__)

_T = TypeVar("_T")

State = Literal["closed", "open", "half-open"]


class SecondLevel(Protocol):
    """What a second level does; thread-safe. Rows are `row_bytes` wide, and each width has its own keys."""

    def get_many(self, keys: Keys, row_bytes: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Rows, shape (n, row_bytes), and which of the n keys were found; what the other rows hold is not looked at."""
        ...

    def put_many(self, keys: Keys, rows: Rows) -> None:
        """Keep rows, shape (n, row_bytes), under n distinct keys; those that are there may stay as they are."""
        ...

    def recent(self, row_bytes: int, most: int) -> Iterator[tuple[Keys, Rows]]:
        """Up to `most` entries, those used most recently first, in blocks."""
        ...

    def clear(self) -> int:
        """Forget everything; the bytes freed."""
        ...

    def stats(self) -> SecondStats: ...

    def close(self) -> None: ...


class Breaker:
    """A second level that never raises. Thread-safe; calls of several threads run side by side.

    After `failures` in a row it is open, and nothing is asked, for `pause_s`; then half-open: one call is let through.
    Where that works it is closed again, where not the pause doubles, up to `longest_pause_s`.
    """

    def __init__(
        self,
        level: SecondLevel,
        *,
        clock: Clock,
        failures: int = 3,
        pause_s: float = 1.0,
        longest_pause_s: float = 60.0,
        on_change: Callable[[State, str], None] | None = None,
    ) -> None:
        self._level = level
        self._clock = clock
        self._failures, self._first_pause_s, self._longest_pause_s = failures, pause_s, longest_pause_s
        self._on_change = on_change
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._pause_s = pause_s
        self._open_until_s: float | None = None
        self._trying = False
        self.errors = 0
        """Calls that failed."""

    @property
    def state(self) -> State:
        """closed: in use; open: left alone; half-open: the next call, or one under way, is a try."""
        with self._lock:
            if self._open_until_s is None:
                return "closed"
            return "half-open" if self._trying or self._clock.monotonic() >= self._open_until_s else "open"

    def get_many(self, keys: Keys, row_bytes: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """As the level's; nothing found where it fails or answers in another shape."""

        def ask() -> tuple[Rows, npt.NDArray[np.bool_]]:
            rows, found = self._level.get_many(keys, row_bytes)
            rows, found = np.ascontiguousarray(rows), np.asarray(found)
            if rows.shape != (len(keys), row_bytes) or rows.dtype != np.uint8:
                raise ValueError(f"rows of shape {rows.shape}, {rows.dtype}, not {(len(keys), row_bytes)}, uint8")
            if found.shape != (len(keys),) or found.dtype != np.bool_:
                raise ValueError(f"found of shape {found.shape}, {found.dtype}, not {(len(keys),)}, bool")
            return rows, found

        nothing = np.zeros((len(keys), row_bytes), np.uint8), np.zeros(len(keys), bool)
        return self._call("get_many", ask, nothing)

    def put_many(self, keys: Keys, rows: Rows) -> None:
        """As the level's; nothing is kept where it fails."""
        self._call("put_many", lambda: self._level.put_many(keys, rows), None)

    def recent(self, row_bytes: int, most: int) -> Iterator[tuple[Keys, Rows]]:
        """As the level's; ends where it fails."""
        blocks = self._call("recent", lambda: self._level.recent(row_bytes, most), None)
        while blocks is not None:
            block = self._call("recent", lambda: next(blocks, None), None)
            if block is None:
                return
            yield block

    def clear(self) -> int:
        """As the level's; 0 where it fails."""
        return self._call("clear", self._level.clear, 0)

    def stats(self) -> SecondStats | None:
        """As the level's; None where it fails or is left alone."""
        return self._call("stats", self._level.stats, None)

    def close(self) -> None:
        """As the level's, also while it is left alone."""
        try:
            self._level.close()
        except Exception:  # noqa: BLE001 — foreign code may raise anything
            self._failed("close")

    def _call(self, what: str, act: Callable[[], _T], otherwise: _T) -> _T:
        if not self._let_through():
            return otherwise
        try:
            answer = act()
        except Exception:  # noqa: BLE001 — foreign code may raise anything
            self._failed(what)
            return otherwise
        except BaseException:
            with self._lock:
                self._trying = False
            raise
        self._worked()
        return answer

    def _let_through(self) -> bool:
        with self._lock:
            if self._open_until_s is None:
                return True
            if self._trying or self._clock.monotonic() < self._open_until_s:
                return False
            self._trying = True
            return True

    def _worked(self) -> None:
        with self._lock:
            if self._open_until_s is not None and not self._trying:
                return  # begun before it opened
            opened = self._open_until_s is not None
            self._in_a_row, self._trying = 0, False
            self._open_until_s, self._pause_s = None, self._first_pause_s
        if opened:
            _log.info("the cache's second level works again")
            self._tell("closed", "")

    def _failed(self, what: str) -> None:
        with self._lock:
            self.errors += 1
            self._in_a_row += 1
            opens = self._open_until_s is None and self._in_a_row >= self._failures
            if opens or self._trying:
                self._pause_s = self._first_pause_s if opens else min(2 * self._pause_s, self._longest_pause_s)
                self._open_until_s = self._clock.monotonic() + self._pause_s
            self._trying = False
        if opens:
            # Called while an exception is handled: the log has its trace.
            _log.exception("the cache's second level failed in %s and is left alone for now", what)
            self._tell("open", what)

    def _tell(self, state: State, what: str) -> None:
        if self._on_change is not None:
            self._on_change(state, what)

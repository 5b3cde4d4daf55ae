"""One engine in a process for each model, however many loaders, banks and governors there are.

Loaders that ask for the same model in the same way get handles of one engine: it is opened by the first and closed with
the last. What is theirs alone (budget, events, idle time) stays theirs.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from embank.embed.engine import recycle
from embank.errors import EmbeddingFailed

if TYPE_CHECKING:
    from embank.embed.engine import Encoded, Engine, TokenIds
    from embank.embed.model import Kind, Vectors


class SharedEngines:
    """Open engines by key. Thread-safe; one opening at a time for a key, and a failed one is told to all who waited."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Hashable, Future[Engine]] = {}
        self._holders: dict[Hashable, int] = {}
        self._let_go: deque[Hashable] = deque()

    def get(self, key: Hashable, open_engine: Callable[[], Engine]) -> Engine:
        """A handle of the engine that `key` stands for; its `close` lets go of this handle alone."""
        with self._lock:
            flight, leads = self._open.get(key), key not in self._open
            if flight is None:
                flight = self._open[key] = Future()
            self._holders[key] = self._holders.get(key, 0) + 1
        self._settle()
        if leads:
            try:
                flight.set_result(open_engine())
            except BaseException as error:
                with self._lock:
                    del self._open[key], self._holders[key]
                self._settle()
                if isinstance(error, Exception):
                    flight.set_exception(error)
                else:
                    # Ctrl-C is this thread's alone; who waited may try again.
                    flight.set_exception(EmbeddingFailed("loading the model was interrupted"))
                raise
        return _Handle(flight.result(), lambda: self._leave(key))

    def _leave(self, key: Hashable) -> None:
        """Never waits for the lock: a forgotten handle is collected at any moment, in the midst of `get` as well."""
        self._let_go.append(key)
        self._settle()

    def _settle(self) -> None:
        """Close what nobody holds any more. Who finds the lock taken leaves it to who has it: that one settles, too."""
        while self._let_go and self._lock.acquire(blocking=False):
            closed: list[Engine] = []
            try:
                while self._let_go:
                    key = self._let_go.popleft()
                    self._holders[key] -= 1
                    if not self._holders[key]:
                        del self._holders[key]
                        closed.append(self._open.pop(key).result())
            finally:
                self._lock.release()
            for engine in closed:
                engine.close()


class _Handle:
    """An `Engine` that somebody else may hold, too."""

    def __init__(self, engine: Engine, let_go: Callable[[], None]) -> None:
        self._engine: Engine | None = engine
        # Also where the handle is forgotten without being closed.
        self._let_go = weakref.finalize(self, let_go)
        self.fingerprint = engine.fingerprint
        self.max_tokens = engine.max_tokens
        self.batch_tokens = engine.batch_tokens
        self.lanes = engine.lanes
        self.length_step = engine.length_step

    @property
    def device(self) -> str:
        return self._held().device

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        return self._held().encode(texts, kind)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._held().count(texts)

    def batch_bytes(self, rows: int, width: int) -> int:
        return self._held().batch_bytes(rows, width)

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        return self._held().forward(batch)

    def used_bytes(self) -> int:
        """All of it, for each who holds it: to let go of one handle frees nothing while there are others."""
        return 0 if self._engine is None else self._engine.used_bytes()

    def recycle(self, *, room_bytes: int = 0) -> int:
        """See `Recyclable`; for everybody who holds the engine."""
        return recycle(self._engine, room_bytes=room_bytes)

    def close(self) -> None:
        self._engine = None
        self._let_go()

    def _held(self) -> Engine:
        if self._engine is None:
            raise EmbeddingFailed("the model is closed", model=self.fingerprint.name)
        return self._engine


ENGINES = SharedEngines()
"""This process's: "loaded once" is a promise about the process."""

"""A model that can be let go and comes back when it is needed: what a user of Embank holds in the hand.

Follows `Model`, `CountsTokens` and the governor's `Consumer`. The engine inside is opened once however many threads ask
(single flight), is never closed under a call that uses it, and is opened again by the next call after it was unloaded.
A failed opening is told to everyone who waited for it, and tried anew by the next who asks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embank.embed import batching
from embank.embed.texts import checked_texts
from embank.errors import EmbeddingFailed, ModelFileError
from embank.events.kinds import (
    ModelLoaded,
    ModelLoadFailed,
    ModelLoadProgressed,
    ModelLoadStarted,
    ModelUnloaded,
)

if TYPE_CHECKING:
    from embank.embed.engine import Budget, Engine, OnProgress, Publisher
    from embank.embed.model import Fingerprint, Kind, Vectors
    from embank.system.clock import Clock

# A model that was used more recently than this is not idle: it would be needed again before its bytes were.
IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """How a model stands: `fraction` and `step` tell of a load, `error` of a failure, `used_bytes` of a ready one."""

    name: str
    precision: str
    status: Literal["absent", "loading", "ready", "failed"]
    fraction: float = 0.0
    step: str = ""
    error: str = ""
    used_bytes: int = 0


class ResidentModel:
    """See the module. Thread-safe. Made by `Loader`; opened by its first use, or by `warm`.

    `open_engine` loads the engine, telling how far it is. Fingerprint, dimension and maximum length are known only from
    the files: reading one of these opens the model, too, and they stay known after it was unloaded.
    """

    def __init__(
        self,
        name: str,
        precision: str,
        open_engine: Callable[[OnProgress], Engine],
        *,
        budget: Budget,
        publisher: Publisher,
        clock: Clock,
    ) -> None:
        self.model_name = name
        self.precision = precision
        self._open_engine = open_engine
        self._budget = budget
        self._publisher = publisher
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows; never held while something else is called
        self._engine: Engine | None = None
        self._identity: tuple[Fingerprint, int] | None = None
        self._flight: Future[None] | None = None
        self._users = 0
        self._used_at_s = 0.0
        self._load_s = 0.0
        self._state = ModelState(name, precision, "absent")

    # --- Model, CountsTokens ----------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        return str(self._known_identity()[0])

    @property
    def dimension(self) -> int:
        return self._known_identity()[0].dimension

    @property
    def max_tokens(self) -> int:
        return self._known_identity()[1]

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """See `Model`. Empty and blank texts get the vector of the model's special tokens alone.

        Raises `InvalidInput`, `BudgetExceeded`, `EmbeddingFailed`, and what opening the model raises.
        """
        with self._using() as engine:
            return batching.embed(engine, texts, kind, budget=self._budget, publisher=self._publisher)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens and prefix, before truncation."""
        listed = checked_texts(texts)
        with self._using() as engine:
            return engine.count(listed)

    # --- loading and letting go -------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Open the model if it is not; returns when it is ready. Raises what went wrong."""
        with self._using():
            pass

    def state(self) -> ModelState:
        return self._state

    def unload(self) -> int:
        """Close the engine unless a call is using it; the bytes given up. The next call opens it again."""
        with self._lock:
            engine = self._engine
            if engine is None or self._users:
                return 0
            self._engine = None
            self._state = ModelState(self.model_name, self.precision, "absent")
        freed = engine.used_bytes()
        engine.close()
        self._publisher.publish(ModelUnloaded(self.model_name, freed))
        return freed

    # --- Consumer ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"model {self.model_name}"

    def used_bytes(self) -> int:
        engine = self._engine
        return 0 if engine is None else engine.used_bytes()

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 — a model goes whole or not at all
        """Unload if no call used it for a minute; never takes it from under anyone. Never raises."""
        if self._clock.monotonic() - self._used_at_s < IDLE_S:
            return 0
        return self.unload()

    def rebuild_cost(self) -> float:
        return self._load_s / max(self.used_bytes() / 1e6, 1.0)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _known_identity(self) -> tuple[Fingerprint, int]:
        if self._identity is not None:
            return self._identity
        with self._using() as engine:
            return engine.fingerprint, engine.max_tokens

    @contextlib.contextmanager
    def _using(self) -> Iterator[Engine]:
        engine = self._enter()
        try:
            yield engine
        finally:
            with self._lock:
                self._users -= 1
                self._used_at_s = self._clock.monotonic()

    def _enter(self) -> Engine:
        """The open engine, counted as in use; opened by this thread, or awaited where another is at it."""
        while True:
            with self._lock:
                if self._engine is not None:
                    self._users += 1
                    self._used_at_s = self._clock.monotonic()
                    return self._engine
                flight, leads = self._flight, self._flight is None
                if flight is None:
                    flight = self._flight = Future()
            if leads:
                self._open(flight)
            # Raises what the opening raised, in every thread that waited for it. A success may have been unloaded
            # again by the time this thread runs: then once more.
            flight.result()

    def _open(self, flight: Future[None]) -> None:
        """Open the engine and settle `flight`. What went wrong is raised from there, also in this thread."""
        started_s = time.perf_counter()
        self._publisher.publish(ModelLoadStarted(self.model_name))
        self._state = ModelState(self.model_name, self.precision, "loading")
        try:
            engine = self._open_engine(self._progressed)
            self._check_identity(engine)
        except BaseException as error:
            with self._lock:
                self._flight = None
                self._state = ModelState(self.model_name, self.precision, "failed", error=str(error))
            self._publisher.publish(ModelLoadFailed(self.model_name, str(error)))
            if isinstance(error, Exception):
                flight.set_exception(error)
                return
            # Ctrl-C is this thread's alone.
            flight.set_exception(EmbeddingFailed(f"loading {self.model_name!r} was interrupted", model=self.model_name))
            raise
        seconds = time.perf_counter() - started_s
        used = engine.used_bytes()
        with self._lock:
            self._engine = engine
            self._flight = None
            self._identity = (engine.fingerprint, engine.max_tokens)
            self._load_s = seconds
            self._used_at_s = self._clock.monotonic()
            self._state = ModelState(self.model_name, self.precision, "ready", fraction=1.0, used_bytes=used)
        self._publisher.publish(ModelLoaded(self.model_name, str(engine.fingerprint), seconds, used))
        flight.set_result(None)

    def _check_identity(self, engine: Engine) -> None:
        """Vectors made before and after a reload must belong together."""
        if self._identity is not None and self._identity[0] != engine.fingerprint:
            engine.close()
            raise ModelFileError(
                f"the files of the model {self.model_name!r} changed while it was unloaded: it was "
                f"{self._identity[0]} and is now {engine.fingerprint}; open it anew under a new handle",
                name=self.model_name,
            )

    def _progressed(self, fraction: float, step: str) -> None:
        self._state = ModelState(self.model_name, self.precision, "loading", fraction=fraction, step=step)
        self._publisher.publish(ModelLoadProgressed(self.model_name, fraction, step))

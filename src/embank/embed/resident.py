"""A model that can be let go and comes back when it is needed: what a user of Embank holds in the hand.

Follows `Model`, `CountsTokens` and the governor's `Consumer`. The engine inside is opened once however many threads ask
(single flight), is never closed under a call that uses it, and is opened again by the next call after it was unloaded:
by hand, under memory pressure, or because nobody used it for long. A failed opening is told to everyone who waited for
it, and tried anew by the next who asks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Literal

from embank.embed import batching
from embank.embed.cost import BatchCost
from embank.embed.engine import recycle
from embank.embed.progress import Listener, Progress
from embank.embed.texts import checked_texts
from embank.errors import EmbeddingFailed, ModelFileError
from embank.events.kinds import (
    ModelIdled,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoadProgressed,
    ModelLoadStarted,
    ModelUnloaded,
)
from embank.memory.recovery import own_bytes

if TYPE_CHECKING:
    from embank.embed.engine import Budget, Engine, OnProgress, Publisher
    from embank.embed.model import Fingerprint, Kind, Vectors
    from embank.memory.recovery import Recovery
    from embank.system.clock import Clock

# A model that was used more recently than this is not idle: it would be needed again before its bytes were.
IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """How a model stands: `fraction` and `step` tell of a load, `error` of a failure, `used_bytes` of a ready one.

    `idle` is ready, too, but nobody has used it for a minute: it goes first when memory is needed. `device` and
    `engine` are what it computes with, empty until it was loaded. `last_used_s` is the age of its last use in seconds,
    None before the first; `users` are the calls under way. A `pinned` one is never let go for idleness.
    """

    name: str
    precision: str
    status: Literal["absent", "loading", "ready", "idle", "failed"]
    fraction: float = 0.0
    step: str = ""
    error: str = ""
    used_bytes: int = 0
    engine: str = ""
    device: str = ""
    pinned: bool = False
    last_used_s: float | None = None
    users: int = 0

    def __str__(self) -> str:
        """The status in words: `loading 42 %, opening`, `failed: why`."""
        if self.status == "loading":
            return f"loading {self.fraction:.0%}{self.step and f', {self.step}'}".replace("%", " %")
        return f"failed: {self.error}" if self.status == "failed" else self.status


class ResidentModel:
    """See the module. Thread-safe. Made by `Loader`; opened by its first use, or by `warm`.

    `open_engine` loads the engine, telling how far it is, and so is `on_progress` told; `on_open` is called when it is
    open. `recovery` cleans up after its calls. A `pinned` model stays, and is the last to go under memory pressure.
    `batch_tokens` is how many padded tokens a batch has, if not as many as the engine says. It `learns` what batches
    take, unless they are computed in another process. Fingerprint, dimension and
    maximum length are known only from the files: reading one of these opens the model, too, and they stay known after
    it was unloaded.
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
        recovery: Recovery | None = None,
        pinned: bool = False,
        batch_tokens: int | None = None,
        learns: bool = True,
        on_progress: Listener | None = None,
        on_open: Callable[[], object] = lambda: None,
    ) -> None:
        self.model_name = name
        self.precision = precision
        self.pinned = pinned
        self._open_engine = open_engine
        self._batch_tokens = batch_tokens
        self._learns = learns
        self._cost: BatchCost | None = None
        self._budget = budget
        self._publisher = publisher
        self._clock = clock
        self._recovery = recovery
        self._on_open = on_open
        self._progress = Progress(name, on_progress)
        self._lock = threading.Lock()  # guards what follows; never held while something else is called
        self._engine: Engine | None = None
        self._identity: tuple[Fingerprint, int] | None = None
        self._flight: Future[None] | None = None
        self._users = 0
        self._used_at_s: float | None = None
        self._idled = False
        self._load_s = 0.0
        self._state = ModelState(name, precision, "absent", pinned=pinned)

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
        watched = contextlib.nullcontext() if self._recovery is None else self._recovery.call()
        with self._using() as engine, watched:
            return batching.embed(
                engine,
                texts,
                kind,
                budget=self._budget,
                publisher=self._publisher,
                batch_tokens=self._batch_tokens,
                cost=self._cost,
            )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens and prefix, before truncation."""
        listed = checked_texts(texts)
        with self._using() as engine:
            return engine.count(listed)

    # --- loading and letting go -------------------------------------------------------------------------------------

    def warm(self, on_progress: Listener | None = None) -> None:
        """Open the model if it is not; returns when it is ready. Raises what went wrong.

        `on_progress` is told how far a load is, whichever thread is at it, and 1.0 in the end.
        """
        with self._progress.heard_by(on_progress), self._using():
            pass

    def state(self) -> ModelState:
        """How it stands now."""
        with self._lock:
            state, users, used_at_s = self._state, self._users, self._used_at_s
        age_s = None if used_at_s is None else 0.0 if users else max(self._clock.monotonic() - used_at_s, 0.0)
        idle = state.status == "ready" and age_s is not None and age_s >= IDLE_S
        return replace(state, status="idle" if idle else state.status, last_used_s=age_s, users=users)

    def unload(self) -> int:
        """Close the engine unless a call is using it; the bytes given up. The next call opens it again."""
        return self._let_go("asked")

    def recycle(self, room_bytes: int = 0) -> int:
        """Have the process that holds the model replaced, where it is in one of its own; see `Recyclable`."""
        return recycle(self._engine, room_bytes=room_bytes)

    def rest(self, keep_alive_s: float | None) -> float | None:
        """Let it go if no call used it for so long and it isn't pinned; say so when it becomes idle.

        Answers the monotonic time at which to look again, None while it is not open.
        """
        now_s = self._clock.monotonic()
        limit_s = inf if keep_alive_s is None or self.pinned else keep_alive_s
        with self._lock:
            if self._engine is None:
                return None
            age_s = 0.0 if self._users or self._used_at_s is None else now_s - self._used_at_s
            goes = age_s >= limit_s and not self._users
            becomes_idle = age_s >= IDLE_S and not self._idled
            self._idled = age_s >= IDLE_S
        if goes and self._let_go("idle", unused_since_s=now_s - limit_s):
            return None
        if becomes_idle:
            self._publisher.publish(ModelIdled(self.model_name))
        marks = [mark for mark in (IDLE_S, limit_s) if mark > age_s and mark < inf]
        # Of an idle one that stays for ever, a later use is seen in time for its next minute.
        return now_s + (min(marks) - age_s if marks else IDLE_S)

    def _let_go(self, why: str, *, unused_since_s: float = inf) -> int:
        """Close the engine, unless a call uses it or has since that time; the bytes given up."""
        with self._lock:
            engine = self._engine
            if engine is None or self._users or (self._used_at_s or 0.0) > unused_since_s:
                return 0
            self._engine = None
            self._state = ModelState(self.model_name, self.precision, "absent", pinned=self.pinned)
        freed = engine.used_bytes()
        engine.close()
        del engine  # before the clean-up
        self._publisher.publish(ModelUnloaded(self.model_name, freed, why))
        if self._recovery is not None:
            self._recovery.request("unload")
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
        return self._let_go("pressure", unused_since_s=self._clock.monotonic() - IDLE_S)

    def rebuild_cost(self) -> float:
        """See `Consumer`; of a pinned model infinite, so that it is asked last."""
        return inf if self.pinned else self._load_s / max(self.used_bytes() / 1e6, 1.0)

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
        self._progress.begin()
        self._state = ModelState(self.model_name, self.precision, "loading", pinned=self.pinned)
        try:
            engine = self._open_engine(self._progressed)
            self._check_identity(engine)
        except BaseException as error:
            with self._lock:
                self._flight = None
                self._state = ModelState(
                    self.model_name, self.precision, "failed", error=str(error), pinned=self.pinned
                )
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
            self._cost = BatchCost(own_bytes) if self._learns else None
            self._flight = None
            self._identity = (engine.fingerprint, engine.max_tokens)
            self._load_s = seconds
            self._used_at_s = self._clock.monotonic()
            self._idled = False
            self._state = ModelState(
                self.model_name,
                self.precision,
                "ready",
                fraction=1.0,
                used_bytes=used,
                engine=engine.fingerprint.engine,
                device=engine.device,
                pinned=self.pinned,
            )
        self._progress.tell(1.0, "ready")
        if self._recovery is not None:
            self._recovery.settle()
        loaded = ModelLoaded(
            self.model_name, str(engine.fingerprint), seconds, used, engine.fingerprint.engine, engine.device
        )
        self._publisher.publish(loaded)
        self._on_open()
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
        self._progress.tell(fraction, step)
        fraction = self._progress.fraction
        self._state = replace(self._state, fraction=fraction, step=step)
        self._publisher.publish(ModelLoadProgressed(self.model_name, fraction, step))

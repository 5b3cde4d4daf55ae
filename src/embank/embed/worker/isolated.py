"""An engine whose model lives in a worker process (`embed.isolation = "process"`).

An `Engine` like any other to those who batch and reserve: `encode`, `count` and `forward` are computed by the worker,
everything else is answered here. A request whose worker is lost (crash, kill, hang, garbled answer) is asked of a fresh
one, a few times; what the model itself raises is raised here, as the same error. Imports no runtime and no tokenizer.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from embank.embed.engine import Encoded
from embank.embed.worker.channel import Channel, Lost, anonymous_bytes
from embank.embed.worker.keeper import Keeper
from embank.embed.worker.wire import Garbled, Kind, packed_rows, packed_texts, unpacked_rows
from embank.errors import EmbeddingFailed, InvalidInput
from embank.events.kinds import BatchRetried
from embank.system.clock import SystemClock
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.engine import LoadRequest, TokenIds
    from embank.embed.model import Kind as TextKind
    from embank.embed.model import Vectors
    from embank.embed.worker.handoff import Identity
    from embank.embed.worker.settings import Settings
    from embank.system.clock import Clock

# -P: the working directory is the user's; a stray json.py or embank/ there must not be imported.
_COMMAND = (sys.executable, "-P", "-m", "embank.embed.worker.child")
# Texts go over in parts of this size, so that the memory shared stays small; one text may be larger.
_PART_BYTES = 1 << 20
# Beyond this, what is shared is reserved first.
_SMALL_BYTES = 2 << 20
# Special tokens of a text, generously.
_SPARE_TOKENS = 8

_Done = TypeVar("_Done")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerCounters:
    """What happened to an engine's workers so far. `ended` counts by cause, `retried` requests by cause."""

    pid: int | None
    started: int
    ended: Mapping[str, int]
    retried: Mapping[str, int]


def open_isolated(
    engine: str,
    request: LoadRequest,
    *,
    settings: Settings | None = None,
    pinned: bool = False,
    clock: Clock | None = None,
    command: Sequence[str] = _COMMAND,
    measure: Callable[[int], int] = anonymous_bytes,
) -> IsolatedEngine:
    """Start a worker that opens `request` with the engine of that registry name, and stand in for it.

    That of a `pinned` model is not ended for being idle.

    Raises what the load raises in the worker, and `EmbeddingFailed` where no worker comes up. `InvalidInput` anywhere
    but on Linux.
    """
    if sys.platform != "linux":
        raise InvalidInput("embed.isolation = process needs Linux: set it to thread", value="process")
    if settings is None:
        from embank.embed.worker.settings import Settings

        settings = Settings()
    if pinned:
        settings = settings.model_copy(update={"recycle_idle_s": None})

    def keep(identity: Identity | None) -> Keeper:
        return Keeper(
            engine,
            request,
            settings=settings,
            clock=clock or SystemClock(),
            command=command,
            measure=measure,
            identity=identity,
        )

    keeper = keep(None)
    try:
        return IsolatedEngine(keeper, request, settings, keep=keep)
    except BaseException:
        keeper.close()
        raise


class IsolatedEngine:
    """See the module. Made by `open_isolated`. Thread-safe but for `close`.

    As many requests at once as the worker has lanes; who comes then waits here.
    """

    def __init__(
        self,
        keeper: Keeper,
        request: LoadRequest,
        settings: Settings,
        *,
        keep: Callable[[Identity | None], Keeper],
    ) -> None:
        self._keeper = keeper
        self._keep = keep
        self._replacing = threading.Lock()
        self._closed = False
        self._starts_before = 0
        """Workers that keepers before this one started, and how they ended."""
        self._endings_before: Counter[str] = Counter()
        self._request = request
        self._settings = settings
        self._retried: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._retrying(lambda _: None, None)  # with which the first worker is there
        identity = self._identity()
        self.fingerprint = identity.fingerprint
        self.device = identity.device
        self.max_tokens = identity.max_tokens
        self.batch_tokens = identity.batch_tokens
        self.lanes = identity.lanes
        self.length_step = identity.length_step
        self._row_bytes = identity.batch_bytes
        self._lanes = threading.Semaphore(identity.lanes)

    # --- Engine -----------------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], kind: TextKind) -> Encoded:
        rows: list[TokenIds] = []
        owners = []
        truncated = 0
        for first, part in _parts(texts):
            encoded = self._encoded(part, kind)
            own = np.arange(len(part), dtype=np.intp) if encoded.owners is None else encoded.owners
            owners.append(own + first)
            rows += encoded.rows
            truncated += encoded.truncated
        return Encoded(rows, np.concatenate(owners) if len(rows) > len(texts) else None, truncated)

    def count(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        for _, part in _parts(texts):
            packed = packed_texts(part)

            def ask(channel: Channel, part: list[str] = part, packed: list[bytes | memoryview] = packed) -> list[int]:
                room = 8 * len(part)
                _, numbers = channel.ask(Kind.COUNT, packed, {"texts": len(part)}, room_bytes=room, dtype=np.int64)
                if len(numbers) != len(part):
                    raise channel.fail("wrong answer", f"{len(numbers)} counts for {len(part)} texts")
                return [int(number) for number in numbers]

            counts += self._computed(ask, packed)
        return counts

    def batch_bytes(self, rows: int, width: int) -> int:
        """The worker's engine's own figures, asked for once; between two widths that of the larger."""
        return self._row_bytes(rows, width)

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        packed = packed_rows(batch)
        shape = (len(batch), self.fingerprint.dimension)

        def ask(channel: Channel) -> Vectors:
            body, numbers = channel.ask(
                Kind.FORWARD,
                packed,
                {"rows": len(batch)},
                room_bytes=4 * shape[0] * shape[1],
                dtype=np.float32,
            )
            if body.get("rows") != shape[0] or numbers.size != shape[0] * shape[1]:
                raise channel.fail("wrong answer", f"{numbers.size} numbers for {body.get('rows')} rows, due: {shape}")
            return numbers.reshape(shape)

        return self._computed(ask, packed)

    def used_bytes(self) -> int:
        """Anonymous memory of the worker, as measured; 0 while there is none."""
        return self._keeper.used_bytes()

    def close(self) -> None:
        self._closed = True
        self._keeper.close()

    # --- the worker -------------------------------------------------------------------------------------------------

    def recycle(self, *, room_bytes: int = 0) -> int:
        """See `Recyclable`. One at a time: who comes meanwhile is told 0."""
        if not self._replacing.acquire(blocking=False):
            return 0
        try:
            keeper = self._keeper
            fits = 0 < keeper.used_bytes() <= room_bytes
            fresh = self._replacement() if fits else None
            if fresh is None:
                return keeper.recycle()
            self._keeper = fresh
            if self._closed:  # meanwhile
                fresh.close()
            freed_bytes = keeper.hand_over()
            with self._counting:
                self._starts_before += keeper.starts
                self._endings_before.update(keeper.endings)
            return freed_bytes
        finally:
            self._replacing.release()

    def counters(self) -> WorkerCounters:
        """What happened so far."""
        with self._counting:
            retried = dict(self._retried)
            keeper, ended = self._keeper, self._endings_before + self._keeper.endings
            started = self._starts_before + keeper.starts
        return WorkerCounters(keeper.pid(), started, dict(ended), retried)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _identity(self) -> Identity:
        identity = self._keeper.identity
        if identity is None:
            raise EmbeddingFailed("the worker has not said which model it holds", model=self._request.name)
        return identity

    def _encoded(self, texts: list[str], kind: TextKind) -> Encoded:
        packed = packed_texts(texts)
        # At most a token a byte and what the model takes, as a rule; where it is more, the worker says how much.
        tokens = sum(min(len(text), self.max_tokens) + _SPARE_TOKENS for text in packed[1:])

        def ask(channel: Channel) -> Encoded:
            body, numbers = channel.ask(
                Kind.ENCODE,
                packed,
                {"texts": len(texts), "kind": kind},
                room_bytes=4 * (tokens + 2 * len(texts)),
                dtype=np.int32,
            )
            try:
                return _unpacked(numbers, len(texts), int(body["rows"]), int(body["truncated"]), bool(body["owned"]))
            except (Garbled, KeyError, TypeError, ValueError) as error:
                raise channel.fail("wrong answer", f"token ids: {error}") from error

        return self._computed(ask, packed)

    def _computed(self, ask: Callable[[Channel], _Done], packed: Sequence[bytes | memoryview]) -> _Done:
        shared_bytes = sum(map(len, packed))
        is_small = shared_bytes <= _SMALL_BYTES
        what = "texts for the worker"
        with nullcontext() if is_small else self._request.budget.reserve(what, shared_bytes, wait_s=60.0):
            return self._retrying(ask, self._lanes)

    def _retrying(self, ask: Callable[[Channel], _Done], lanes: threading.Semaphore | None) -> _Done:
        """Ask the worker, and another one where it is lost, as often as the settings allow."""
        attempt = 0
        while True:
            keeper = self._keeper
            try:
                with lanes or nullcontext(), keeper.use() as channel:
                    return ask(channel)
            except Lost as error:
                lost = error
            except EmbeddingFailed:
                if keeper is self._keeper:
                    raise
                continue  # another one took its place meanwhile
            attempt += 1
            if attempt > self._settings.retries:
                raise self._failed(lost, attempt) from lost
            with self._counting:
                self._retried[lost.cause] += 1
            self._request.publisher.publish(BatchRetried(lost.cause, attempt))

    def _replacement(self) -> Keeper | None:
        """Another keeper with a worker that has loaded the model; None where it could not: the old one goes on then."""
        fresh = self._keep(self._keeper.identity)
        try:
            with fresh.use():
                return fresh
        except Exception as error:  # noqa: BLE001 -- whatever a load raises: nobody asked for this one
            _log.info("no worker could be started beside that of %s: %s", self._request.name, error)
            fresh.close()
            return None

    def _failed(self, lost: Lost, attempts: int) -> EmbeddingFailed:
        name = self._request.name
        advice = _ADVICE.get(lost.cause, "see the log for what it said")
        return EmbeddingFailed(
            f"the worker of the model {name!r} was lost {attempts} times in a row, at last by {lost.cause}: "
            f"{lost.detail}: {advice}",
            model=name,
            cause=lost.cause,
            attempts=attempts,
        )


_MEMORY_ADVICE = (
    "memory has probably run out: give the container more, or make batches smaller with embed.padded_tokens or "
    "embed.threads, or take embed.precision = int8"
)
_ADVICE: Mapping[str, str] = {
    "killed": _MEMORY_ADVICE,
    "memory": _MEMORY_ADVICE,
    "hang": "if the machine is only slow, raise worker.deadline_s and worker.heartbeat_s",
    "start": "look at the system's limits on processes, open files and memory",
}


def _parts(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Consecutive parts of bounded size, each with the index of its first text; at least one."""
    part: list[str] = []
    first = size = 0
    for index, text in enumerate(texts):
        # At least; exact bytes would mean to encode every text twice.
        if part and size + len(text) > _PART_BYTES:
            yield first, part
            part, first, size = [], index, 0
        part.append(text)
        size += len(text)
    if part:
        yield first, part


def _unpacked(numbers: TokenIds, texts: int, rows: int, truncated: int, owned: bool) -> Encoded:  # noqa: FBT001
    """Check what came: ids of `rows` rows, and whose they are where that is told."""
    if not owned:
        if rows != texts:
            raise Garbled(f"{rows} rows for {texts} texts")
        return Encoded(unpacked_rows(numbers, rows), None, truncated)
    owners = numbers[len(numbers) - rows :].astype(np.intp)
    steps = np.diff(owners, prepend=-1)
    if len(owners) != rows or (steps < 0).any() or (steps > 1).any() or owners[-1] != texts - 1 or steps[0] != 1:
        raise Garbled(f"{rows} rows do not belong to {texts} texts in their order")
    return Encoded(unpacked_rows(numbers[: len(numbers) - rows], rows), owners, truncated)

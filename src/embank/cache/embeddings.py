"""The embedding cache: what a text's vector was, kept under a limit in bytes that holds.

Covers one level in memory and, behind it, a second one where there is one. A vector is kept under its text, the kind of
text (a query's vector may differ from a passage's) and the space, which is the model's fingerprint. What a hit gives is
bit for bit what `put_many` returned. Does not call a model, except in `get_or_compute`, which is handed one.

The limit counts everything that the cache holds: rows, keys, index, queues, free slots, whole pages. What a single call
needs beside its own arguments and results (one piece of up to 1,024 rows) is not part of it. The cache never fails a
request for want of memory: what finds no room is not kept, and counted.

Thread-safe. A lock is held to find slots and to book changes, not while texts are hashed, vectors converted, and rows
copied out or in. A row that was replaced while it was being read is looked up once more, and is a miss if it happens
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from embank.cache.budget import Budget
from embank.cache.codec import Codec, Dtype, Float32
from embank.cache.costs import check_seconds
from embank.cache.keys import Hasher, Keys, last_of_each
from embank.cache.level import FirstLevel, Found, Worth
from embank.cache.policies.lru import Lru
from embank.cache.policies.policy import Policy
from embank.cache.policies.s3fifo import S3Fifo
from embank.cache.second import Breaker, SecondLevel, State
from embank.cache.shrink import clear_space
from embank.cache.spaces import Space
from embank.cache.stats import CacheStats
from embank.errors import InvalidInput
from embank.events.caches import CacheCleared, CacheShrunk, CacheWarmed, SecondLevelClosed, SecondLevelOpened
from embank.events.kinds import Event
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.system.clock import Clock, SystemClock
from embank.system.size import Size

_POLICIES: dict[str, type[Policy]] = {"s3fifo": S3Fifo, "lru": Lru}
_PIECE = 1_024
"""Rows worked on at once, at most; an eighth of a small cache, so that a large call doesn't flush it of itself."""
_LEAST_PIECE = 32
_FOUND = np.ones(1, bool)
_UNKNOWN = 0
"""The number of entries whose space nobody told (see `spaces`)."""


class EmbeddingCache:
    """See the module; follows the governor's `Consumer`.

    `limit` is a size ("100MB") or, with a governor, a percentage of its budget. With a governor the cache is registered
    on the rung `release`, grows only into what it is allotted, and gives way when asked. `policy` is s3fifo or lru.
    `secret` keys the hashes: give one where a second level is to be found again by another process. `clock` and
    `stream` are for tests and for watching.
    """

    name = "embedding cache"

    def __init__(
        self,
        limit: str | int | Size = "100MB",
        *,
        policy: Literal["s3fifo", "lru"] = "s3fifo",
        dtype: Dtype = "float16",
        governor: Governor | None = None,
        second: SecondLevel | None = None,
        clock: Clock | None = None,
        secret: bytes | None = None,
        stream: Stream | None = None,
    ) -> None:
        if policy not in _POLICIES:
            raise InvalidInput(f"a cache's policy is {' or '.join(_POLICIES)}, not {policy!r}", policy=policy)
        Codec(dtype, 1)  # refuses an unknown one
        self._policy_name, self._dtype = policy, dtype
        self._governor, self._stream = governor, stream
        self._clock = clock or SystemClock()
        self._hasher = Hasher(secret, dtype)
        self._budget = Budget(self._resolved(limit), _POLICIES[policy], governor, self._clock)
        self._level = FirstLevel(self._budget, dtype, self._clock)
        self._second = None if second is None else Breaker(second, clock=self._clock, on_change=self._on_second)
        self._second_hits = 0
        self._registration = None if governor is None else governor.register(self, rung="release")

    # --- asking -----------------------------------------------------------------------------------------------------

    def get_many(self, texts: Sequence[str], *, space: str, kind: str = "passage") -> tuple[Float32, Found]:
        """Vectors, float32, shape (n, d), and which of the n texts were found; the other rows are zeros.

        d is 0 while the cache knows nothing of the space (`learn` tells it). Raises `InvalidInput` where a text is no
        str.
        """
        texts = _listed(texts)
        known = self._known(space)
        if known is not None and len(texts) == 1 and self._second is None:
            # In a path of its own: for a single query numpy's overhead would be most of the time.
            vector = self._level.get_one(known, self._hasher.digest(texts[0], self._hasher.preset(space, kind)))
            if vector is not None:
                return vector, _FOUND.copy()
            return np.zeros((1, known.codec.dimension), np.float32), np.zeros(1, bool)
        keys = self._hasher.keys(texts, space, kind)
        if known is None:
            self._level.missed(len(texts))
            return np.zeros((len(texts), 0), np.float32), np.zeros(len(texts), bool)
        vectors, found = self._level.get(known, keys)
        if self._second is not None and not found.all():
            self._ask_second(self._second, known, keys, vectors, found)
        return vectors, found

    def get_or_compute(
        self,
        texts: Sequence[str],
        compute: Callable[[list[str]], Any],
        *,
        space: str,
        kind: str = "passage",
    ) -> Float32:
        """Vectors of all texts, float32, shape (n, d): those found, and for the others what `compute` makes of them.

        `compute` gets each missing text once and returns its vectors in order; what it raises passes through, and what
        took it how long is measured. Raises `InvalidInput` as `put_many` does.
        """
        texts = _listed(texts)
        vectors, found = self.get_many(texts, space=space, kind=kind)
        if found.all() and len(texts):
            return vectors
        missing = list(dict.fromkeys(text for text, there in zip(texts, found.tolist(), strict=True) if not there))
        if not missing:
            return vectors
        began_s = self._clock.monotonic()
        computed = compute(list(missing))
        seconds = max(self._clock.monotonic() - began_s, 0.0)
        made = self.put_many(missing, computed, space=space, kind=kind, seconds=seconds)
        place = {text: number for number, text in enumerate(missing)}
        if not vectors.shape[1]:
            vectors = np.zeros((len(texts), made.shape[1]), np.float32)
        for number in (~found).nonzero()[0].tolist():
            vectors[number] = made[place[texts[number]]]
        return vectors

    # --- telling ----------------------------------------------------------------------------------------------------

    def put_many(
        self,
        texts: Sequence[str],
        vectors: Any,
        *,
        space: str,
        kind: str = "passage",
        seconds: float | None = None,
        tokens: Sequence[int] | None = None,
    ) -> Float32:
        """Keep vectors, shape (n, d), under n texts. Returns them, float32, as a later hit gives them.

        `seconds` is what computing all of them took, `tokens` how many each text has: what was costly is kept longer,
        and counted as saved. Of a text that occurs twice the last vector counts. Raises `InvalidInput`, and keeps
        nothing, for vectors of another width than the space's, that are not finite or are zero; for texts that are no
        str; and for counts or seconds that can't be.
        """
        texts = _listed(texts)
        rows, codec = self._checked(texts, vectors, space)
        keys = self._hasher.keys(texts, space, kind)
        weights = self._level.costs.weights(texts, tokens)
        check_seconds(seconds)
        if not len(texts):
            return rows
        known = self._level.learn(space, codec.dimension)
        last, of_last = last_of_each(keys)
        if last is not None:
            rows, keys, weights = rows[last], keys[last], weights[last]
        made = self._put(known, keys, rows, self._level.weigh(weights, seconds))
        return made if of_last is None else made[of_last]

    def learn(self, space: str, dimension: int) -> None:
        """Tell the dimension of a space before anything is put into it, so that a second level can be asked.

        Raises `InvalidInput` where it has another one.
        """
        self._known(space)
        self._level.learn(space, dimension)

    def warm_up(self, *, space: str, dimension: int, most: int | None = None) -> int:
        """Fetch what the second level used last, up to `most` entries or half the limit; how many came.

        Of any space whose rows are as wide: the second level knows keys only.
        """
        self._known(space)
        known = self._level.learn(space, dimension)
        if self._second is None:
            return 0
        began_s = self._clock.monotonic()
        wanted = known.region.capacity // 2 if most is None else min(most, known.region.capacity)
        came = 0
        for keys, rows in self._second.recent(known.codec.row_bytes, wanted):
            if came >= wanted:
                break
            came += self._promote(known, keys[: wanted - came], rows[: wanted - came], number=_UNKNOWN)
        self._publish(CacheWarmed(self.name, came, self._clock.monotonic() - began_s, at=self._clock.now()))
        return came

    def clear(self, space: str | None = None) -> int:
        """Forget everything, in the second level, too; or one space, in memory only. The bytes of memory freed.

        A second level knows no spaces: what it holds of one stays there, under keys that only the same texts find. So
        do entries that came by `warm_up` and may be of this space: they go as well.
        """
        before_bytes = self.used_bytes()
        if space is None:
            with self._level.alone():
                self._budget.clear()
            if self._second is not None:
                self._second.clear()
        elif (known := self._known(space)) is not None:
            with self._level.alone():
                clear_space(known.region, {known.number, _UNKNOWN})
        freed_bytes = max(before_bytes - self.used_bytes(), 0)
        self._publish(CacheCleared(self.name, space or "", freed_bytes, at=self._clock.now()))
        return freed_bytes

    # --- memory -----------------------------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        """What it holds now, all counted."""
        return self._budget.used_bytes()

    def release(self, wanted_bytes: int) -> int:
        """Give pages back to the system, the cheapest entries' first; the bytes freed. Never raises."""
        if wanted_bytes <= 0:
            return 0
        began_s = time.perf_counter()
        with self._level.alone():
            freed_bytes = self._budget.release(wanted_bytes)
        seconds = time.perf_counter() - began_s
        self._publish(CacheShrunk(self.name, "release", wanted_bytes, freed_bytes, seconds, at=self._clock.now()))
        return freed_bytes

    def rebuild_cost(self) -> float:
        """Seconds that a megabyte of entries took to compute, at the average of late."""
        with self._level.lock:
            entries = sum(region.entries for region in self._budget.regions.values())
            return self._level.costs.mean_s * entries / max(self.used_bytes() / 1e6, 1e-6)

    @property
    def limit_bytes(self) -> int:
        """The limit. May be set at any time, to bytes or a size; a lower one is kept to at once."""
        return self._budget.limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, value: str | int | Size) -> None:
        limit_bytes = self._resolved(value)
        began_s = time.perf_counter()
        with self._level.alone():
            wanted_bytes = max(self.used_bytes() - limit_bytes, 0)
            freed_bytes = self._budget.set_limit(limit_bytes)
        if freed_bytes:
            seconds = time.perf_counter() - began_s
            self._publish(CacheShrunk(self.name, "limit", wanted_bytes, freed_bytes, seconds, at=self._clock.now()))

    def close(self) -> None:
        """Give everything back, leave the governor, and close the second level. Closing again does nothing."""
        with self._level.alone():
            if self._level.closed:
                return
            self._level.closed = True
            self._budget.clear()
        if self._registration is not None:
            self._registration.close()
        if self._second is not None:
            self._second.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stats(self) -> CacheStats:
        """Counters, bytes and ages, as of now."""
        second = self._second
        seconds = None if second is None else second.stats()  # may be slow: before the lock is taken
        figures = self._level.figures()
        return CacheStats(
            policy=self._policy_name,
            dtype=self._dtype,
            used_bytes=self.used_bytes(),
            limit_bytes=self.limit_bytes,
            second_hits=self._second_hits,
            second_state=None if second is None else second.state,
            second_errors=0 if second is None else second.errors,
            second=seconds,
            **figures,
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _known(self, space: str) -> Space | None:
        """What is known of a space; None where nothing was put into it yet."""
        if not isinstance(space, str):
            raise InvalidInput(f"space must be a str, not {type(space).__name__}", value=space)
        return self._level.spaces.get(space)

    def _checked(self, texts: Sequence[str], vectors: Any, space: str) -> tuple[Float32, Codec]:
        """Vectors as float32 rows that can be kept, and how."""
        known = self._known(space)
        try:
            shape = np.shape(vectors)
        except ValueError as error:  # rows of different lengths
            raise InvalidInput(f"vectors must be rows of one width: {error}") from error
        if not len(texts) and (not shape or not shape[0]):
            return np.zeros((0, 0 if known is None else known.codec.dimension), np.float32), Codec(self._dtype, 1)
        if len(shape) != 2 or shape[0] != len(texts) or not shape[1]:
            raise InvalidInput(f"{len(texts)} texts need {len(texts)} rows of one width; these have shape {shape}")
        codec = Codec(self._dtype, shape[1]) if known is None else known.codec
        return codec.check(vectors), codec

    def _put(self, space: Space, keys: Keys, vectors: Float32, worth: Worth) -> Float32:
        """Keep them piece by piece, and in the second level; what they have become."""
        step = min(max(space.region.capacity // 8, _LEAST_PIECE), _PIECE)
        made = np.empty_like(vectors) if len(keys) > step else None
        for start in range(0, len(keys), step):
            some = slice(start, start + step)
            rows = space.codec.encode(vectors[some])
            self._level.put(space, keys[some], rows, worth.of(some))
            if self._second is not None and not self._level.closed:
                self._second.put_many(keys[some], rows)
            if made is None:
                return space.codec.decode(rows)
            made[some] = space.codec.decode(rows)
        return vectors if made is None else made

    def _ask_second(self, second: Breaker, space: Space, keys: Keys, vectors: Float32, found: Found) -> None:
        """Fill in what the second level has of the missing, and take it into the first."""
        missing = (~found).nonzero()[0]
        rows, there = second.get_many(keys[missing], space.codec.row_bytes)
        there = there & space.codec.readable(rows)
        got = missing[there]
        if not len(got):
            return
        vectors[got] = space.codec.decode(rows[there])
        found[got] = True
        self._promote(space, keys[got], rows[there])
        with self._level.lock:
            self._second_hits += len(got)

    def _promote(self, space: Space, keys: Keys, rows: npt.NDArray[np.uint8], *, number: int | None = None) -> int:
        """Take rows of the second level into the first; how many were new there."""
        if rows.shape != (len(keys), space.codec.row_bytes):
            return 0
        rows = np.ascontiguousarray(rows)
        fine = space.codec.readable(rows)
        last, _ = last_of_each(keys[fine])
        keys, rows = (keys[fine], rows[fine]) if last is None else (keys[fine][last], rows[fine][last])
        return sum(
            self._level.put(space, keys[at : at + _PIECE], rows[at : at + _PIECE], worth, number=number)
            for at, worth in self._level.average(len(keys), _PIECE)
        )

    def _resolved(self, limit: str | int | Size) -> int:
        size = Size(limit)
        if size.count_bytes is None and self._governor is None:
            raise InvalidInput(f"{limit} of what? Without a governor a cache's limit is in bytes", limit=limit)
        return size.resolve(0 if self._governor is None else self._governor.budget_bytes)

    def _on_second(self, state: State, call: str) -> None:
        at = self._clock.now()
        opened = SecondLevelOpened(self.name, call, at=at)
        self._publish(opened if state == "open" else SecondLevelClosed(self.name, at=at))

    def _publish(self, event: Event) -> None:
        if self._stream is not None:
            self._stream.publish(event)


def _listed(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, (list, tuple)):
        return texts
    if isinstance(texts, (str, bytes)):
        raise InvalidInput("texts must be a list of str, not a single one", value=texts)
    try:
        return list(texts)
    except TypeError as error:
        raise InvalidInput(f"texts must be a list of str, not {type(texts).__name__}") from error

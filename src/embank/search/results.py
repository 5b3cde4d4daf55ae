"""Answers that were given before, for as long as nothing changed in the collection.

An answer is kept under everything that was asked (collection, words, vector, number of hits, filter, mode, weights) and
marked with the state of the collection that it was made of: its sequence, which every acknowledged change raises, its
generation and its vectors' fingerprint. Whoever asks reads the state first, so what comes from here is what a search
would find that begins at that moment; an answer of another state is replaced by the next one in place.

Who asks while another thread searches for the same answer waits for it, unless it may be of an older state than the
one that was read. Answers are kept as text, so that what is handed out is the caller's own. A degraded answer is not
kept.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from embank.cache.weighed import WeighedCache, WeighedStats
from embank.search.answer import Answer, decode, encode
from embank.search.flights import Flights
from embank.store.predicate import compile_where

if TYPE_CHECKING:
    from embank.events.stream import Stream
    from embank.memory.governor import Governor
    from embank.search.query import Query
    from embank.search.settings import Settings
    from embank.store.protocol import CollectionInfo
    from embank.system.clock import Clock


class Results:
    """Those of one bank. Thread-safe. `limit_bytes` bounds what it holds."""

    def __init__(
        self,
        limit_bytes: int,
        *,
        governor: Governor | None = None,
        clock: Clock | None = None,
        stream: Stream | None = None,
    ) -> None:
        self._kept: WeighedCache[bytes] = WeighedCache(
            "search results", limit_bytes, governor=governor, clock=clock, stream=stream
        )
        self.flights: Flights[tuple[Answer, bytes]] = Flights()
        self._secret = secrets.token_bytes(32)

    def key(self, query: Query, info: CollectionInfo, settings: Settings) -> bytes:
        """What an answer is kept under. Raises `InvalidInput` for a filter that is none."""
        where = None if query.where is None else compile_where(query.where)
        weighed = settings.fusion, settings.dense_weight, settings.candidates
        asked = (info.name, query.told(), where, weighed)
        hasher = hashlib.blake2b(ascii(asked).encode(), digest_size=16, key=self._secret)
        if query.vector is not None:
            hasher.update(b"\0")  # which stands in no text above
            hasher.update(query.vector.tobytes())
        return hasher.digest()

    def answer(
        self, key: bytes, info: CollectionInfo, search: Callable[[], tuple[CollectionInfo, Answer, float]]
    ) -> tuple[Answer, bool]:
        """The answer of that state of the collection or a later one, and whether it was there, or is another thread's.

        `search` makes it, and says of which state it is and how many seconds it took.
        """
        kept = self.find(key, info)
        if kept is not None:
            return kept, True

        def made() -> tuple[CollectionInfo, tuple[Answer, bytes]]:
            of, answer, seconds = search()
            return of, (answer, self.keep(key, of, answer, seconds))

        (answer, content), here = self.flights.ask(key, info, made)
        return (answer, False) if here else (decode(content), True)

    def find(self, key: bytes, info: CollectionInfo) -> Answer | None:
        """The answer of that state of the collection, where it is kept."""
        kept = self._kept.get(key, _mark(info))
        return None if kept is None else decode(kept)

    def keep(self, key: bytes, info: CollectionInfo, answer: Answer, seconds: float) -> bytes:
        """Keep an answer of that state, which took so long; not one that is degraded. Its form in the cache."""
        content = encode(answer)
        if not answer.degraded:
            self._kept.put(key, content, sys.getsizeof(content), mark=_mark(info), seconds=seconds)
        return content

    def clear(self) -> int:
        """Forget all answers; the bytes freed."""
        return self._kept.clear()

    def stats(self) -> WeighedStats:
        """Counters, bytes and ages, as of now."""
        return self._kept.stats()

    def close(self) -> None:
        """Give everything back and leave the governor."""
        self._kept.close()


def _mark(info: CollectionInfo) -> bytes:
    return f"{info.created!r} {info.generation} {info.sequence} {info.fingerprint}".encode()

"""A second level behind the first: what it has is a hit, and whatever it does wrong is a miss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.cache.vectors import names, unit
from tests.memory.machine import StillClock

from embank.cache.codec import Rows
from embank.cache.embeddings import EmbeddingCache
from embank.cache.keys import Keys
from embank.cache.second import SecondLevel
from embank.cache.stats import SecondStats
from embank.events.kinds import CacheWarmed, SecondLevelClosed, SecondLevelOpened
from embank.events.stream import Stream

SECRET = b"of a bank"


class Shelf:
    """A second level in a dict. `spoil` is called with each answer of `get_many` and may change or raise."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}
        self.calls = 0
        self.broken: BaseException | None = None
        self.spoil: Callable[[Rows, Any], Any] = lambda rows, found: (rows, found)
        self.closed = False

    def _called(self) -> None:
        self.calls += 1
        if self.broken is not None:
            raise self.broken

    def get_many(self, keys: Keys, row_bytes: int) -> tuple[Rows, Any]:
        self._called()
        there = [self.rows.get((row_bytes, key.tobytes())) for key in keys]
        rows = np.frombuffer(b"".join(row or bytes(row_bytes) for row in there), np.uint8).reshape(-1, row_bytes)
        return self.spoil(rows, np.array([row is not None for row in there]))  # type: ignore[no-any-return]

    def put_many(self, keys: Keys, rows: Rows) -> None:
        self._called()
        for key, row in zip(keys, rows, strict=True):
            self.rows[len(row), key.tobytes()] = row.tobytes()

    def recent(self, row_bytes: int, most: int) -> Iterator[tuple[Keys, Rows]]:
        self._called()
        mine = [(key, row) for (width, key), row in reversed(self.rows.items()) if width == row_bytes][:most]
        for start in range(0, len(mine), 100):
            keys, rows = zip(*mine[start : start + 100], strict=True)
            yield (
                np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2),
                np.frombuffer(b"".join(rows), np.uint8).reshape(-1, row_bytes),
            )

    def clear(self) -> int:
        self._called()
        freed = sum(map(len, self.rows.values()))
        self.rows.clear()
        return freed

    def stats(self) -> SecondStats:
        self._called()
        return SecondStats("shelf", len(self.rows), 0, 0, 0, 0)

    def close(self) -> None:
        self._called()
        self.closed = True


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def over(shelf: SecondLevel, clock: StillClock | None = None, **options: Any) -> EmbeddingCache:
    return EmbeddingCache("1MB", second=shelf, secret=SECRET, clock=clock, **options)


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_another_cache_finds_the_same_bits_there(shelf: Shelf, dtype: Any) -> None:
    texts = names(500)
    with over(shelf, dtype=dtype) as first:
        kept = first.put_many(texts, unit(500, 48), space="m")
        assert first.stats().second == SecondStats("shelf", 500, 0, 0, 0, 0)
    assert shelf.closed
    with over(shelf, dtype=dtype) as second:
        second.learn("m", 48)
        for _ in range(2):
            got, found = second.get_many(["unknown", *texts, "text 3"], space="m")
            assert found.tolist() == [False, *[True] * 501]
            assert got[1:].tobytes() == kept.tobytes() + kept[3].tobytes()
        stats = second.stats()
        assert (stats.second_hits, stats.entries, stats.second_state) == (501, 500, "closed")
        assert (stats.hits, stats.misses) == (501, 503)
        assert second.get_many(["text 7"], space="m")[0].tobytes() == kept[7].tobytes()
    with EmbeddingCache("1MB", dtype=dtype, second=shelf, secret=b"another bank's") as stranger:
        stranger.learn("m", 48)
        assert not stranger.get_many(texts, space="m")[1].any()


def test_a_single_text_is_found_there_too(shelf: Shelf) -> None:
    with over(shelf) as first:
        kept = first.put_many(["a"], unit(1), space="m")
        first.release(10**9)
        got, found = first.get_many(["a"], space="m")
        assert found.all()
        assert got.tobytes() == kept.tobytes()


def test_warming_up_takes_what_was_used_last(shelf: Shelf) -> None:
    texts = names(900)
    with over(shelf) as first:
        kept = first.put_many(texts, unit(900, 48), space="m")
    with Stream() as stream, stream.subscribe(kinds=[CacheWarmed]) as events, over(shelf, stream=stream) as second:
        assert second.warm_up(space="m", dimension=48, most=250) == 250
        (event,) = events.drain()
        assert isinstance(event, CacheWarmed)
        assert event.entries == 250
        asked = shelf.calls
        got, found = second.get_many(texts[-250:], space="m")
        assert found.all()
        assert got.tobytes() == kept[-250:].tobytes()
        assert shelf.calls == asked  # all of them were in memory
        second.clear("m")  # whose they are nobody told: they may be of this space
        assert second.stats().entries == 0


def test_clearing_all_clears_it_too(shelf: Shelf) -> None:
    with over(shelf) as cache:
        cache.put_many(names(5), unit(5), space="m")
        cache.clear()
        assert shelf.rows == {}
        assert not cache.get_many(names(5), space="m")[1].any()


def nothing_like(rows: Rows, found: Any) -> Any:
    return {"not": "a pair"}


SPOILS: dict[str, Callable[[Rows, Any], Any]] = {
    "too few rows": lambda rows, found: (rows[1:], found),
    "narrower rows": lambda rows, found: (rows[:, 1:], found),
    "rows of another type": lambda rows, found: (rows.astype(np.float64), found),
    "found as numbers": lambda rows, found: (rows, found.astype(int)),
    "found too short": lambda rows, found: (rows, found[1:]),
    "None": lambda rows, found: None,
    "no pair": nothing_like,
    "rows of zeros": lambda rows, found: (np.zeros_like(rows), found),
    "rows that are not finite": lambda rows, found: (np.full_like(rows, 0xFF), found),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_what_can_not_be_a_vector_is_a_miss(shelf: Shelf, spoil: Callable[[Rows, Any], Any]) -> None:
    with over(shelf) as cache:
        cache.put_many(names(5), unit(5), space="m")
        cache.release(10**9)
        shelf.spoil = spoil
        got, found = cache.get_many(names(5), space="m")
        assert not found.any()
        assert not got.any()
        assert cache.stats().entries == 0


@pytest.mark.parametrize("error", [OSError("disk full"), MemoryError(), RuntimeError("x"), KeyError("y")])
def test_after_failures_it_is_left_alone_and_tried_again(shelf: Shelf, clock: StillClock, error: Exception) -> None:
    with (
        Stream() as stream,
        stream.subscribe(kinds=[SecondLevelOpened, SecondLevelClosed]) as events,
        over(shelf, clock, stream=stream) as cache,
    ):
        kept = cache.put_many(names(2), unit(2), space="m")
        shelf.broken = error
        for _ in range(3):
            assert not cache.get_many(["missing"], space="m")[1].any()
        assert cache.stats().second_state == "open"
        asked = shelf.calls
        for _ in range(5):
            cache.get_many(["missing"], space="m")
            cache.put_many(["b"], unit(1), space="m")  # the first level goes on
        assert shelf.calls == asked
        assert cache.get_many(["b"], space="m")[1].all()
        clock.time_s += 1.1
        assert cache.stats().second_state == "open"  # that was the try; the pause has doubled
        assert shelf.calls == asked + 1
        clock.time_s += 1.1
        cache.get_many(["missing"], space="m")
        assert shelf.calls == asked + 1
        clock.time_s += 1.1
        shelf.broken = None
        cache.release(10**9)
        got, found = cache.get_many(names(2), space="m")
        assert found.all()
        assert got.tobytes() == kept.tobytes()
        stats = cache.stats()
        assert (stats.second_state, stats.second_errors) == ("closed", 4)
        told = events.drain()
        assert [type(event) for event in told] == [SecondLevelOpened, SecondLevelClosed]
        assert isinstance(told[0], SecondLevelOpened)
        assert told[0].call == "get_many"


def test_every_call_of_a_broken_level_is_survived(shelf: Shelf, clock: StillClock) -> None:
    shelf.broken = OSError("gone")
    acts: list[Callable[[EmbeddingCache], object]] = [
        lambda cache: cache.get_many(["a"], space="m"),
        lambda cache: cache.put_many(["a"], unit(1), space="m"),
        lambda cache: cache.clear(),
        lambda cache: cache.stats(),
        lambda cache: cache.warm_up(space="m", dimension=32),
        lambda cache: cache.close(),
    ]
    for act in acts:
        cache = over(shelf, clock)
        cache.learn("m", 32)
        act(cache)
        cache.close()
        assert not shelf.closed


def test_an_interrupt_is_not_swallowed(shelf: Shelf, clock: StillClock) -> None:
    cache = over(shelf, clock)
    cache.learn("m", 32)
    shelf.broken = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        cache.get_many(["a"], space="m")
    shelf.broken = None
    cache.close()


def test_a_level_that_breaks_off_while_warming_up_gave_what_it_gave(shelf: Shelf, clock: StillClock) -> None:
    class Tearing(Shelf):
        def recent(self, row_bytes: int, most: int) -> Iterator[tuple[Keys, Rows]]:
            for number, block in enumerate(super().recent(row_bytes, most)):
                if number == 2:
                    raise OSError("torn")
                yield block

    tearing = Tearing()
    with over(tearing, clock) as first:
        first.put_many(names(900), unit(900, 48), space="m")
        first.release(10**9)
        assert first.warm_up(space="m", dimension=48) == 200
        assert first.stats().second_errors == 1

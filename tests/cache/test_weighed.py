"""A cache of things with a weight: the limit, who goes first, marks, figures, giving back."""

from __future__ import annotations

import random
import secrets
import sys
import threading
import tracemalloc

import pytest
from tests.memory.machine import MB, Machine, StillClock

from embank.cache.weighed import ENTRY_BYTES, WeighedCache
from embank.events.caches import CacheCleared, CacheShrunk
from embank.events.stream import Stream
from embank.memory.consumer import Consumer
from embank.memory.governor import Governor
from embank.memory.settings import Settings


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


OF_ONE = ENTRY_BYTES + sys.getsizeof(key(0)) + sys.getsizeof(b"") + 100
"""What an entry of weight 100 takes."""


def of(entries: int, clock: StillClock | None = None) -> WeighedCache[str]:
    """With room for so many entries of weight 100."""
    return WeighedCache("things", entries * OF_ONE, clock=clock)


def test_what_was_put_is_there_and_the_same_object() -> None:
    cache = of(3)
    value = "x" * 50
    assert cache.get(key(1)) is None
    assert cache.put(key(1), value, 100)
    assert cache.get(key(1)) is value
    assert isinstance(cache, Consumer)
    assert cache.used_bytes() == OF_ONE


def test_the_least_recently_used_go_first() -> None:
    cache = of(3)
    for number in range(3):
        cache.put(key(number), str(number), 100)
    assert cache.get(key(0)) == "0"
    cache.put(key(3), "3", 100)
    assert [cache.get(key(number)) for number in range(4)] == ["0", None, "2", "3"]
    assert cache.stats().evictions == 1


def test_an_overwrite_counts_once() -> None:
    cache = of(3)
    cache.put(key(1), "first", 100)
    cache.put(key(1), "second", 150)
    assert cache.get(key(1)) == "second"
    assert cache.used_bytes() == OF_ONE + 50
    assert cache.stats().entries == 1


def test_of_another_mark_is_a_miss_and_is_replaced() -> None:
    cache = of(3)
    cache.put(key(1), "old", 100, mark=b"1")
    assert cache.get(key(1), b"2") is None
    cache.put(key(1), "new", 100, mark=b"2")
    assert cache.get(key(1), b"2") == "new"
    assert cache.get(key(1), b"1") is None
    stats = cache.stats()
    assert (stats.entries, stats.hits, stats.misses, stats.stale, stats.evictions) == (1, 1, 2, 2, 0)


def test_what_does_not_fit_is_not_kept_and_takes_nothing_elses_place() -> None:
    cache = of(2)
    cache.put(key(1), "small", 100)
    assert not cache.put(key(2), "large", 10_000)
    assert cache.get(key(1)) == "small"
    assert cache.stats().rejected == 1
    # Nor is what it would have replaced still right.
    assert not cache.put(key(1), "large", 10_000)
    assert cache.get(key(1)) is None
    assert cache.used_bytes() == 0


def test_a_limit_of_nothing_turns_it_off() -> None:
    cache: WeighedCache[str] = WeighedCache("off", 0)
    assert not cache.put(key(1), "x", 0)
    assert cache.get(key(1)) is None


def test_the_limit_can_be_changed_while_it_is_used() -> None:
    cache = of(4)
    for number in range(4):
        cache.put(key(number), str(number), 100)
    cache.limit_bytes = 2 * OF_ONE
    assert cache.used_bytes() == 2 * OF_ONE
    assert [cache.get(key(number)) for number in range(4)] == [None, None, "2", "3"]
    cache.limit_bytes = 4 * OF_ONE
    assert cache.put(key(5), "5", 100)
    assert cache.stats().entries == 3


def test_it_gives_back_what_is_asked_for_and_says_so() -> None:
    with Stream() as stream, stream.subscribe() as events:
        cache: WeighedCache[str] = WeighedCache("things", MB, stream=stream)
        for number in range(10):
            cache.put(key(number), str(number), 100)
        assert cache.release(0) == 0
        assert cache.release(OF_ONE + 1) == 2 * OF_ONE
        assert cache.get(key(1)) is None
        assert cache.get(key(2)) == "2"
        assert cache.release(10**9) == 8 * OF_ONE
        assert cache.used_bytes() == 0
        cache.put(key(1), "again", 100)
        assert cache.clear() == OF_ONE
        assert cache.get(key(1)) is None
        told = events.drain()
    assert [type(event) for event in told] == [CacheShrunk, CacheShrunk, CacheCleared]


def test_the_figures(clock: StillClock) -> None:
    cache = of(5, clock)
    cache.put(key(1), "x", 100, seconds=0.25)
    clock.sleep(10)
    cache.put(key(2), "y", 100, seconds=1.0)
    clock.sleep(2)
    for _ in range(3):
        cache.get(key(1))
    cache.get(key(2))
    cache.get(key(3))
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.hit_rate) == (4, 1, 0.8)
    assert stats.seconds_saved == pytest.approx(1.75)
    assert (stats.oldest_age_s, stats.mean_age_s) == (12, 7)
    assert (stats.used_bytes, stats.limit_bytes) == (2 * OF_ONE, 5 * OF_ONE)
    assert cache.rebuild_cost() == pytest.approx(1.25 / (2 * OF_ONE / 1e6))
    assert stats.as_dict()["hits"] == 4


@pytest.mark.parametrize("count", [10, 1_366, 5_462, 10_923])
def test_it_says_no_less_than_what_the_interpreter_hands_out(count: int) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache: WeighedCache[bytes] = WeighedCache("things", 100 * MB)
        for _ in range(count):
            value = secrets.token_bytes(200)
            cache.put(secrets.token_bytes(16), value, sys.getsizeof(value), mark=secrets.token_bytes(30), seconds=0.1)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held <= cache.used_bytes() + 4_096  # the cache's own object
    assert held >= cache.used_bytes() * 0.8


def test_many_threads_keep_the_limit_and_never_mix_values_up() -> None:
    cache: WeighedCache[str] = WeighedCache("things", 50 * OF_ONE)
    problems: list[str] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(2_000):
            number, mark = rng.randrange(100), bytes([rng.randrange(3)])
            got = cache.get(key(number), mark)
            if got is None:
                cache.put(key(number), f"{number} {mark!r}", rng.randrange(200), mark=mark)
            elif got != f"{number} {mark!r}":
                problems.append(got)
            if cache.used_bytes() > cache.limit_bytes:
                problems.append("over the limit")
            if rng.random() < 0.01:
                cache.release(5 * OF_ONE)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    cache.release(10**9)
    assert cache.used_bytes() == 0


# --- under a governor -----------------------------------------------------------------------------------------------


def test_a_governor_sees_it_and_gets_back_what_it_needs(clock: StillClock) -> None:
    governor = Governor(100 * MB, meter=Machine(), clock=clock, settings=Settings())
    cache: WeighedCache[str] = WeighedCache("things", 10 * MB, governor=governor, clock=clock)
    cache.put(key(1), "x", 1 * MB)
    held = dict(governor.snapshot().consumers)
    assert held["things"] == cache.used_bytes() > MB
    governor.relieve(10**9)
    assert cache.used_bytes() == 0
    cache.close()
    assert "things" not in dict(governor.snapshot().consumers)
    assert not cache.put(key(1), "x", 100)


def test_it_does_not_grow_into_what_the_budget_has_not(clock: StillClock) -> None:
    machine = Machine()
    governor = Governor(100 * MB, meter=machine, clock=clock, settings=Settings.model_validate({"check_interval_s": 0}))
    cache: WeighedCache[str] = WeighedCache("things", 50 * MB, governor=governor, clock=clock)
    assert cache.put(key(1), "x", 1 * MB)
    machine.held_bytes = 95 * MB
    clock.sleep(1)
    assert not cache.put(key(2), "x", 2 * MB)
    assert cache.get(key(1)) == "x"
    machine.held_bytes = 10 * MB
    clock.sleep(1)
    assert cache.put(key(2), "x", 2 * MB)

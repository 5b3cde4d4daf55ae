"""Under a governor: the cache grows into what it is allotted, gives way when asked, and leaves when closed."""

from __future__ import annotations

import threading

import pytest
from tests.cache.vectors import names, unit
from tests.memory.machine import MB, StillClock

from embank.cache.allotment import allotment
from embank.cache.embeddings import EmbeddingCache
from embank.memory.governor import Governor
from embank.memory.meter import Reading
from embank.memory.settings import Settings


class Room:
    """A machine on which `held_bytes` are held beside the caches."""

    def __init__(self, held_bytes: int) -> None:
        self.held_bytes = held_bytes
        self.caches: list[EmbeddingCache] = []

    def read(self) -> Reading:
        held = self.held_bytes + sum(cache.used_bytes() for cache in self.caches)
        return Reading(tree_bytes=held, cgroup_bytes=None, cgroup_limit_bytes=None, processes=1)


@pytest.fixture
def room() -> Room:
    return Room(20 * MB)


@pytest.fixture
def governor(room: Room, clock: StillClock) -> Governor:
    return Governor(
        100 * MB, meter=room, clock=clock, settings=Settings.model_validate({"check_interval_s": 0, "cooldown_s": 0})
    )


def cache_in(room: Room, governor: Governor, clock: StillClock, limit: str = "100MB") -> EmbeddingCache:
    cache = EmbeddingCache(limit, dtype="float32", governor=governor, clock=clock)
    room.caches.append(cache)
    return cache


def fill(cache: EmbeddingCache, megabytes: int, of: str = "text") -> None:
    vectors = unit(1_000, 250)
    for number in range(megabytes):
        cache.put_many(names(1_000, f"{of} {number}"), vectors, space="m")


def test_it_grows_into_its_allotment_and_no_further(room: Room, governor: Governor, clock: StillClock) -> None:
    """Half of what is left below the first rung's way down: (60 - 20) / 2 MB, though its limit is 100 MB."""
    with cache_in(room, governor, clock) as cache:
        assert allotment(governor) == 20 * MB
        fill(cache, 40)
        assert 19 * MB < cache.used_bytes() <= 20 * MB
        assert governor.snapshot().rung is None
        assert cache.stats().evictions > 0
        room.held_bytes = 10 * MB  # others gave back: it may grow
        clock.time_s += 1
        fill(cache, 40, "more")
        assert 24 * MB < cache.used_bytes() <= 25 * MB


def test_its_own_limit_holds_where_that_is_lower(room: Room, governor: Governor, clock: StillClock) -> None:
    with cache_in(room, governor, clock, "5%") as cache:
        assert cache.limit_bytes == 5 * MB
        fill(cache, 10)
        assert 4.9 * MB < cache.used_bytes() <= 5 * MB


def test_without_room_it_keeps_nothing_and_fails_nobody(room: Room, governor: Governor, clock: StillClock) -> None:
    room.held_bytes = 70 * MB
    with cache_in(room, governor, clock) as cache:
        vectors = unit(100, 250)
        assert cache.put_many(names(100), vectors, space="m").tobytes() == vectors.tobytes()
        assert (cache.stats().entries, cache.stats().rejected) == (0, 100)
        assert cache.used_bytes() == 0


def test_it_is_registered_asked_and_gone_when_closed(room: Room, governor: Governor, clock: StillClock) -> None:
    cache = cache_in(room, governor, clock)
    fill(cache, 15)
    assert dict(governor.snapshot().consumers)["embedding cache"] == cache.used_bytes() == governor.managed_bytes()
    with governor.reserve("a large batch", 72 * MB):  # 80 are there, some 15 of them the cache's
        assert cache.used_bytes() <= 8 * MB
        assert cache.stats().entries > 0
    room.held_bytes += 60 * MB
    governor.check()
    assert cache.used_bytes() < 2 * MB
    cache.close()
    assert governor.managed_bytes() == 0
    assert "embedding cache" not in dict(governor.snapshot().consumers)


def test_the_cheaper_of_two_is_asked_first(room: Room, governor: Governor, clock: StillClock) -> None:
    with cache_in(room, governor, clock, "8MB") as cheap, cache_in(room, governor, clock, "8MB") as costly:
        for cache, seconds in ((cheap, 0.001), (costly, 10.0)):
            cache.put_many(names(4_000), unit(4_000, 250), space="m", seconds=seconds)
        assert cheap.rebuild_cost() < costly.rebuild_cost() / 1_000
        before = cheap.used_bytes(), costly.used_bytes()
        governor.relieve(2 * MB)
        assert cheap.used_bytes() <= before[0] - 2 * MB
        assert costly.used_bytes() == before[1]


def test_releases_beside_growth_never_lock_each_other_out(room: Room, governor: Governor, clock: StillClock) -> None:
    with cache_in(room, governor, clock) as cache:
        threads = [threading.Thread(target=fill, args=(cache, 8, f"{number}")) for number in range(4)]
        threads += [threading.Thread(target=lambda: [governor.relieve(MB) for _ in range(20)]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert cache.used_bytes() <= 20 * MB

"""The limit holds: as the cache counts, and as the kernel does; what is released is gone from the process."""

from __future__ import annotations

import gc
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from tests.cache.vectors import mapped_bytes, names, unit

from embank.cache.embeddings import EmbeddingCache
from embank.events.kinds import CacheCleared, CacheShrunk
from embank.events.stream import Stream
from embank.system.size import Size

Policy = Literal["s3fifo", "lru"]
POLICIES: list[Policy] = ["s3fifo", "lru"]


@pytest.fixture
def held_bytes() -> Callable[[], int]:
    """What the kernel counts of mappings that were not there when the test began."""
    gc.collect()
    before = mapped_bytes()
    return lambda: mapped_bytes() - before


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("limit", [1, 40_000, 100_000, 1_000_000, 3_999_999])
def test_it_is_never_exceeded_while_it_fills_and_when_it_is_full(
    policy: Policy, limit: int, held_bytes: Callable[[], int]
) -> None:
    vectors = unit(512, 96)
    with EmbeddingCache(limit, policy=policy) as cache:
        for number in range(40):
            made = cache.put_many(names(512, f"{number}"), vectors, space="m")
            assert cache.used_bytes() <= limit
            assert held_bytes() <= limit
            assert made.shape == (512, 96)
        stats = cache.stats()
        assert stats.inserted == stats.entries + stats.evictions
        assert stats.inserted + stats.rejected == 20_480
        if limit >= 1_000_000:
            assert cache.used_bytes() > 0.97 * limit  # it is made use of
            assert stats.used_bytes / stats.entries < 2 * 96 + 48  # with keys and all


def test_what_it_counts_is_what_the_kernel_counts(held_bytes: Callable[[], int]) -> None:
    with EmbeddingCache("20MB") as cache:
        cache.put_many(names(30_000), unit(30_000, 384), space="m")
        cache.get_many(names(30_000), space="m")
        assert 0.98 * cache.used_bytes() < held_bytes() <= cache.used_bytes()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_released_is_gone_from_the_process(policy: Policy, held_bytes: Callable[[], int]) -> None:
    with EmbeddingCache("24MB", policy=policy) as cache:
        cache.put_many(names(30_000), unit(30_000, 384), space="m")
        held, used = held_bytes(), cache.used_bytes()
        freed = cache.release(20_000_000)
        assert freed >= 20_000_000
        assert cache.used_bytes() == used - freed
        assert held - held_bytes() >= 0.99 * freed
        entries = cache.stats().entries
        assert entries > 0
        _, found = cache.get_many(names(30_000), space="m")
        assert found.sum() == entries
        cache.release(10**12)
        assert (cache.used_bytes(), held_bytes(), cache.stats().entries) == (0, 0, 0)
        assert cache.release(0) == cache.release(-5) == cache.release(10) == 0


def test_closing_and_letting_go_give_everything_back(held_bytes: Callable[[], int]) -> None:
    cache = EmbeddingCache("5MB")
    cache.put_many(names(5_000), unit(5_000, 384), space="m")
    assert held_bytes() > 3_000_000
    cache.close()
    assert held_bytes() == 0
    other = EmbeddingCache("5MB")
    other.put_many(names(5_000), unit(5_000, 384), space="m")
    del other
    gc.collect()
    assert held_bytes() == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_the_limit_can_be_changed_both_ways(policy: Policy, held_bytes: Callable[[], int]) -> None:
    texts, vectors = names(12_000), unit(12_000, 64)
    with EmbeddingCache("1MB", policy=policy, dtype="float32") as cache:
        cache.put_many(texts, vectors, space="m")
        before = cache.stats().entries
        for limit in ("300KB", Size("100KB"), 700_000, "1.5MB", "800KB", "3MB", "50KB", "2MB"):
            cache.limit_bytes = limit
            count = Size(limit).count_bytes
            assert cache.limit_bytes == count
            assert count is not None
            assert cache.used_bytes() <= count
            assert held_bytes() <= count
            got, found = cache.get_many(texts, space="m")
            assert got[found].tobytes() == vectors[found].tobytes()
            assert found.sum() == cache.stats().entries
            cache.put_many(texts, vectors, space="m")
            assert 0.9 * count < cache.used_bytes() <= count or count < 100_000
            assert held_bytes() <= count
        assert cache.stats().entries > 1.8 * before


def test_shrinking_keeps_what_is_worth_most() -> None:
    vectors = unit(4_000, 64)
    with EmbeddingCache("4MB", dtype="float32") as cache:
        cache.put_many(names(4_000), vectors, space="m")
        hot = names(4_000)[::5]
        for _ in range(2):
            cache.get_many(hot, space="m")
        cache.limit_bytes = cache.used_bytes() // 3
        assert cache.get_many(hot, space="m")[1].mean() > 0.95


def test_a_large_call_does_not_flush_what_is_used() -> None:
    with EmbeddingCache("1MB") as cache:
        cache.put_many(names(300, "hot"), unit(300, 384), space="m")
        for _ in range(2):
            cache.get_many(names(300, "hot"), space="m")
        cache.put_many(names(20_000, "bulk"), unit(20_000, 384), space="m")
        assert cache.get_many(names(300, "hot"), space="m")[1].mean() > 0.95


def test_it_tells_what_it_gave_back() -> None:
    with Stream() as stream, stream.subscribe() as events, EmbeddingCache("4MB", stream=stream) as cache:
        cache.put_many(names(4_000), unit(4_000, 384), space="m")
        freed = [cache.release(1_000_000)]
        used = cache.used_bytes()
        cache.limit_bytes = 1_000_000
        freed += [used - cache.used_bytes(), cache.clear("m"), cache.clear()]
        told = events.drain()
    assert [type(event) for event in told] == [CacheShrunk, CacheShrunk, CacheCleared, CacheCleared]
    assert [event.freed_bytes for event in told if isinstance(event, CacheShrunk | CacheCleared)] == freed
    assert [event.reason for event in told if isinstance(event, CacheShrunk)] == ["release", "limit"]


# -- threads ---------------------------------------------------------------------------------------------------------


def together(count: int, act: Callable[[int], None]) -> None:
    """Run `act(0)` … `act(count - 1)` at once; the first error is raised here."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            act(number)
        except BaseException as error:  # noqa: BLE001 — it is raised below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not [thread for thread in threads if thread.is_alive()], "a thread hangs"
    if failed:
        raise failed[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_eight_threads_see_whole_rows_of_the_right_text_within_the_limit(policy: Policy) -> None:
    """Each vector says whose it is and which version; versions are overwritten all the time, slots move and go."""
    limit, width, universe = 2_000_000, 128, 6_000
    over: list[int] = []
    hits = itertools.count()
    with EmbeddingCache(limit, policy=policy, dtype="float32") as cache:

        def work(number: int) -> None:
            random = np.random.default_rng(number)
            for turn in range(120):
                size = int(random.choice([1, 3, 100, 400]))
                ids = random.zipf(1.2, size) % universe
                texts = [f"text {each}" for each in ids]
                if number == 0 and turn % 10 == 5:
                    cache.release(int(random.integers(1, 800_000)))
                elif number == 1 and turn % 10 == 5:
                    cache.limit_bytes = int(random.integers(500_000, limit))
                elif number == 2 and turn % 30 == 5:
                    cache.clear("m")
                got, found = cache.get_many(texts, space="m")
                if len(got[found]):
                    next(hits)
                    first = got[found][:, :1]
                    assert (got[found] == first).all(), "a torn row"
                    assert (first[:, 0] // 100 == ids[found] + 1).all(), "another text's row"
                versions = ((ids + 1) * 100 + random.integers(0, 100, size)).astype(np.float32)
                cache.put_many(texts, np.repeat(versions[:, None], width, axis=1), space="m")
                if cache.used_bytes() > limit:
                    over.append(cache.used_bytes())

        together(8, work)
        stats = cache.stats()
        assert over == []
        assert next(hits) > 100
        assert stats.hits > 0
        _, found = cache.get_many(names(universe), space="m")
        assert found.sum() == stats.entries


def test_counters_are_exact_under_eight_threads() -> None:
    with EmbeddingCache("2MB") as cache:

        def work(number: int) -> None:
            for turn in range(60):
                texts = names(50, f"{number} {turn}")
                assert not cache.get_many(texts, space="m")[1].any()
                cache.put_many(texts, unit(50), space="m")
                cache.get_many(texts[:1], space="m")

        together(8, work)
        stats = cache.stats()
        assert stats.hits + stats.misses == 8 * 60 * 51
        assert stats.inserted == 8 * 60 * 50 == stats.entries + stats.evictions


def test_closing_while_others_write_leaves_nothing(held_bytes: Callable[[], int]) -> None:
    for _ in range(10):
        cache = EmbeddingCache("5MB")
        barrier = threading.Barrier(5)

        def work(number: int, cache: EmbeddingCache = cache, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            if number == 4:
                cache.close()
            else:
                for turn in range(10):
                    cache.put_many(names(200, f"{number} {turn}"), unit(200, 96), space="m")

        together(5, work)
        assert (cache.used_bytes(), held_bytes()) == (0, 0)


CHURN = """
import sys, threading
import numpy as np
from embank.cache.embeddings import EmbeddingCache
cache = EmbeddingCache(6_000_000)
vectors = np.random.default_rng(0).standard_normal((256, 384), dtype=np.float32)
def work(number):
    random = np.random.default_rng(number)
    for turn in range(60):
        texts = [f"{each}" for each in random.integers(0, 20_000, 256)]
        cache.put_many(texts, vectors, space="m")
        cache.get_many(texts, space="m")
        if turn % 20 == 10:
            cache.release(2_000_000)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(cache.used_bytes(), flush=True)
sys.stdin.read()
"""


def test_another_process_never_sees_it_above_its_limit() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(process.stdout.readline()))  # type: ignore[union-attr]
        reader.start()
        peak, looks = 0, 0
        while reader.is_alive():
            # Stopped, since what moves while the kernel goes through the mappings would be counted twice.
            process.send_signal(signal.SIGSTOP)
            peak, looks = max(peak, mapped_bytes(process.pid)), looks + 1
            process.send_signal(signal.SIGCONT)
            reader.join(0.005)
        process.stdin.close()
    assert process.returncode == 0
    assert looks > 10
    assert 5_000_000 < int(said[0]) <= 6_000_000
    assert 5_000_000 < peak <= 6_000_000

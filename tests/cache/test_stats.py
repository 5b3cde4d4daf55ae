"""What the cache says of itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.cache.vectors import names, unit
from tests.memory.machine import StillClock

from embank.cache.embeddings import EmbeddingCache


def test_counters_count_what_happened(clock: StillClock) -> None:
    with EmbeddingCache("1MB", dtype="int8", policy="lru", clock=clock) as cache:
        cache.get_many(names(3), space="m")  # of a space that nobody heard of
        cache.put_many(names(10), unit(10), space="m", seconds=5.0)
        cache.put_many(names(4), unit(4), space="m")
        clock.time_s += 100
        cache.get_many(names(12), space="m")
        cache.get_many(["text 1"], space="m")
        cache.get_many(["text 99"], space="m")
        cache.put_many(["later"], unit(1), space="m")
        stats = cache.stats()
        assert (stats.hits, stats.misses, stats.inserted, stats.overwritten) == (11, 6, 11, 4)
        assert (stats.entries, stats.evictions, stats.rejected) == (11, 0, 0)
        assert stats.hit_rate == 11 / 17
        assert stats.seconds_saved == pytest.approx(5.5, rel=0.1)
        assert stats.oldest_age_s == 100
        assert stats.mean_age_s == pytest.approx(1_000 / 11)
        assert (stats.used_bytes, stats.limit_bytes) == (cache.used_bytes(), 1_000_000)
        assert (stats.policy, stats.dtype, stats.second, stats.second_state) == ("lru", "int8", None, None)
        assert json.loads(json.dumps(stats.as_dict()))["entries"] == 11


def test_what_was_never_measured_is_not_reported_as_saved() -> None:
    with EmbeddingCache("1MB") as cache:
        cache.put_many(names(10), unit(10), space="m")
        cache.get_many(names(10), space="m")
        assert cache.stats().seconds_saved == 0


def test_how_old_were_those_that_went(clock: StillClock) -> None:
    with EmbeddingCache("100KB", clock=clock) as cache:
        cache.put_many(names(200, "old"), unit(200, 384), space="m")
        clock.time_s += 50
        cache.put_many(names(400, "new"), unit(400, 384), space="m")
        assert 0 < cache.stats().evicted_age_s <= 50


def test_lru_in_the_same_bytes_is_told_from_a_sample() -> None:
    """The shadow beside S3-FIFO says what a real LRU cache hits over the same calls: Zipf with scans."""
    random = np.random.default_rng(2)
    weights = np.arange(1, 60_001) ** -0.9
    weights /= weights.sum()
    row = np.ones((2_000, 384), np.float32)
    with (
        EmbeddingCache("8MB", secret=b"sample") as cache,
        EmbeddingCache("8MB", policy="lru", secret=b"sample") as lru,
    ):
        for turn in range(120):
            texts = [f"z{number}" for number in random.choice(60_000, 1_000, p=weights)]
            if turn % 5 == 4:
                texts += names(1_000, f"scan {turn}")
            for each in (cache, lru):
                _, found = each.get_many(texts, space="m")
                missing = [text for text, there in zip(texts, found.tolist(), strict=True) if not there]
                each.put_many(missing, row[: len(missing)], space="m")
        told, real = cache.stats(), lru.stats()
        assert told.lru_hit_rate == pytest.approx(real.hit_rate, abs=0.05)
        assert real.lru_hit_rate == pytest.approx(real.hit_rate, abs=0.05)
        assert told.hit_rate > real.hit_rate + 0.03

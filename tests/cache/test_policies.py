"""Who goes first: what a scan brought, what is cheap, what was used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import numpy as np
import pytest
from tests.cache.vectors import names, unit

from embank.cache.embeddings import EmbeddingCache

LIMIT = 1_000_000


def ask(cache: EmbeddingCache, texts: list[str], *, seconds: float | None = None) -> int:
    """As a caller with a model would: look up, compute what is missing, put it; the hits."""
    _, found = cache.get_many(texts, space="m")
    missing = [text for text, there in zip(texts, found.tolist(), strict=True) if not there]
    if missing:
        cache.put_many(missing, unit(len(missing), 128), space="m", seconds=seconds)
    return int(found.sum())


@pytest.mark.parametrize(("policy", "least", "most"), [("s3fifo", 0.97, 1.0), ("lru", 0.0, 0.0)])
def test_a_scan_leaves_the_hot_set_alone(policy: Literal["s3fifo", "lru"], least: float, most: float) -> None:
    with EmbeddingCache(LIMIT, policy=policy) as cache:
        hot = names(1_000, "hot")
        for _ in range(3):
            ask(cache, hot)
        for start in range(0, 20_000, 500):
            ask(cache, [f"scan {number}" for number in range(start, start + 500)])
        assert least <= ask(cache, hot) / len(hot) <= most


def test_what_comes_back_soon_after_it_went_is_kept() -> None:
    """The second time it enters the main queue, which the scan then leaves alone."""
    with EmbeddingCache(LIMIT) as cache:
        ask(cache, names(4_000, "main"))
        for _ in range(2):
            ask(cache, names(3_000, "main"))  # hit, so that these stay, and the rest makes room
        back = names(200, "back")
        ask(cache, back)
        ask(cache, names(1_500, "scan"))
        assert ask(cache, back) == 0  # it went with the scan
        ask(cache, names(3_000, "another scan"))
        assert ask(cache, back) > 120  # it remembers most of them: later fingerprints fall on some of theirs


def test_lru_is_exact() -> None:
    """Against an ordered dict over the same calls, one text at a time."""
    random = np.random.default_rng(5)
    with EmbeddingCache(60_000, policy="lru", dtype="float32") as cache:
        vector = unit(1, 128)
        cache.put_many(names(200, "fill"), unit(200, 128), space="m")
        most = cache.stats().entries
        order: OrderedDict[str, None] = OrderedDict()
        cache.clear()
        for number in (random.zipf(1.1, 4_000) % 500).tolist():
            text = f"t{number}"
            assert cache.get_many([text], space="m")[1][0] == (text in order)
            if text in order:
                order.move_to_end(text)
                continue
            cache.put_many([text], vector, space="m")
            order[text] = None
            if len(order) > most:
                order.popitem(last=False)
        assert cache.stats().entries == len(order) == most


def test_of_two_that_are_used_equally_often_the_costly_one_stays() -> None:
    with EmbeddingCache(LIMIT) as cache:
        cheap, costly = names(800, "cheap"), names(800, "costly")
        ask(cache, cheap, seconds=0.8)
        ask(cache, costly, seconds=80.0)
        for texts in (cheap, costly):
            ask(cache, texts)
        for turn in range(20):  # others that are used twice, so that the main queue has to give way
            for _ in range(2):
                ask(cache, names(200, f"pressure {turn}"), seconds=0.2)
        kept = {name: ask(cache, texts) for name, texts in (("cheap", cheap), ("costly", costly))}
        assert kept["costly"] > 700
        assert kept["cheap"] < kept["costly"] / 2


def test_cost_without_a_hit_buys_nothing() -> None:
    """A bulk ingest of long texts flushes nothing."""
    with EmbeddingCache(LIMIT) as cache:
        hot = names(1_000, "hot")
        for _ in range(3):
            ask(cache, hot, seconds=1.0)
        for start in range(0, 10_000, 500):
            ask(cache, [f"long {number}" for number in range(start, start + 500)], seconds=500.0)
        assert ask(cache, hot) > 970


def test_tokens_say_what_is_costly_where_no_seconds_do() -> None:
    with EmbeddingCache(LIMIT) as cache:
        texts = names(10)
        cache.put_many(texts, unit(10), space="m", tokens=[1] * 5 + [900] * 5, seconds=9.01)
        cache.get_many(texts[:5], space="m")
        little = cache.stats().seconds_saved
        cache.get_many(texts[5:], space="m")
        assert cache.stats().seconds_saved - little == pytest.approx(900 * little, rel=0.1)


@pytest.mark.parametrize("policy", ["s3fifo", "lru"])
def test_a_cache_at_its_limit_evicts_by_the_batch_and_stays_full(policy: Literal["s3fifo", "lru"]) -> None:
    with EmbeddingCache(LIMIT, policy=policy) as cache:
        ask(cache, names(5_000))
        full = cache.stats().entries
        for turn in range(30):
            ask(cache, names(100, f"turn {turn}"))
            assert cache.stats().entries > 0.98 * full
        assert cache.stats().evictions > 2_000

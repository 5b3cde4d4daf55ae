"""Any sequence of calls: what is found is what a plain dict says, and the limit holds."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from tests.cache.vectors import unit

from embank.cache.embeddings import EmbeddingCache

Key = tuple[str, str, str]
SPACES = {"a": 24, "b": 24, "c": 7, "d": 300}


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
@pytest.mark.parametrize("policy", ["s3fifo", "lru"])
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_was_put_last_or_nothing(
    policy: Literal["s3fifo", "lru"], dtype: Literal["float16", "int8", "float32"], seed: int
) -> None:
    random = np.random.default_rng(seed)
    model: dict[Key, bytes] = {}
    pools = {width: unit(500, width, seed=seed) for width in set(SPACES.values())}
    cache = EmbeddingCache(300_000, policy=policy, dtype=dtype)
    found_in_all = 0
    for _ in range(400):
        space = str(random.choice(list(SPACES)))
        kind = str(random.choice(["query", "passage"]))
        count = int(random.choice([0, 1, 1, 2, 30, 200]))
        texts = [f"t{number}" for number in random.integers(0, 400, count)]
        act = random.choice(
            ["put", "get", "release", "limit", "clear a space", "clear"], p=[0.45, 0.45, 0.03, 0.04, 0.02, 0.01]
        )
        if act == "put":
            rows = pools[SPACES[space]][random.integers(0, 500, count)]
            kept = cache.put_many(texts, rows, space=space, kind=kind, seconds=float(random.random()))
            model.update(((space, kind, text), row.tobytes()) for text, row in zip(texts, kept, strict=True))
        elif act == "get":
            got, found = cache.get_many(texts, space=space, kind=kind)
            for text, row, there in zip(texts, got, found.tolist(), strict=True):
                assert not there or row.tobytes() == model[space, kind, text]
                assert there or not row.any()
            found_in_all += int(found.sum())
        elif act == "release":
            cache.release(int(random.integers(1, 200_000)))
        elif act == "limit":
            cache.limit_bytes = int(random.integers(20_000, 400_000))
        elif act == "clear a space":
            cache.clear(space)
            model = {key: row for key, row in model.items() if key[0] != space}
        else:
            cache.clear()
            model = {}
        assert cache.used_bytes() <= cache.limit_bytes
    there = 0
    for (space, kind, text), row in model.items():
        got, found = cache.get_many([text], space=space, kind=kind)
        assert not found[0] or got.tobytes() == row
        there += int(found[0])
    assert there == cache.stats().entries
    assert found_in_all > 0

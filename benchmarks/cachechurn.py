"""A cache under mixed work by several threads, for another process to watch: `python -m benchmarks.cachechurn`.

Prints a JSON line when the cache is there, and one at the end: what it counted itself, and how many rows were wrong.
In between the main thread waits. An operation is a text looked up or put; calls are of 1 to 256 texts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.sampling import held_bytes
from embank.cache.embeddings import EmbeddingCache

DIMENSION = 384
UNIVERSE = 60_000
SIZES = (1, 1, 8, 64, 256)


def main() -> None:
    """Fill, and work on it until every thread has done its part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", type=int, required=True)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--policy", default="s3fifo")
    given = parser.parse_args()
    rows = np.random.default_rng(0).standard_normal((UNIVERSE // 10, DIMENSION), dtype=np.float32)
    rows[:] = rows.astype(np.float16)  # as the cache gives them back
    with EmbeddingCache(1_000_000) as warm:  # what calls need beside the cache is with the allocator from here on
        _work(warm, rows, 0, 20_000, {"wrong": 0, "calls": 0})
    gc.collect()
    before_bytes = held_bytes_of_self()
    cache = EmbeddingCache(given.limit, policy=given.policy)
    print(json.dumps({"before_bytes": before_bytes}), flush=True)
    told: dict[str, int] = {"wrong": 0, "calls": 0, "most_bytes": 0}
    threads = [
        threading.Thread(target=_work, args=(cache, rows, number, given.ops // given.threads, told))
        for number in range(given.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    stats = cache.stats().as_dict()
    print(json.dumps({**told, "after_bytes": held_bytes_of_self(), "stats": stats}), flush=True)
    sys.stdin.read()


def held_bytes_of_self() -> int:
    """Anonymous memory of this process."""
    return held_bytes(os.getpid())


def _work(cache: EmbeddingCache, rows: npt.NDArray[np.float32], number: int, ops: int, told: dict[str, int]) -> None:
    random = np.random.default_rng(number)
    done = turn = wrong = 0
    while done < ops:
        size = int(random.choice(SIZES))
        ids = random.zipf(1.1, size) % UNIVERSE
        texts = [f"the text with the number {each}" for each in ids.tolist()]
        mine = rows[ids % len(rows)]
        got, found = cache.get_many(texts, space="m")
        wrong += int(np.any(got[found] != mine[found], axis=1).sum()) if found.any() else 0
        cache.put_many(texts, mine, space="m")
        done, turn = done + 2 * size, turn + 1
        _once_in_a_while(cache, number, turn, random)
        told["most_bytes"] = max(told.get("most_bytes", 0), cache.used_bytes())
    told["wrong"] += wrong
    told["calls"] += 2 * turn


def _once_in_a_while(cache: EmbeddingCache, number: int, turn: int, random: Any) -> None:
    if number == 0 and turn % 500 == 0:
        cache.release(int(random.integers(1, cache.limit_bytes // 2)))
    elif number == 1 and turn % 3_000 == 0:
        cache.clear()


if __name__ == "__main__":
    main()

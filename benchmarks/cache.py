"""The figures of the embedding cache: `python -m benchmarks.cache --json [PART …] [--ops N]`.

room        overhead_bytes: bytes an entry of 384 dimensions takes beyond its row (keys, index, queues, free slots), in
            a full cache of 100 MB; the larger of what the cache counts and what the kernel does. *_int8, *_lru likewise
speed       get_many_ratio: seconds of a locked cachetools LRUCache over ours, at batches of 1,024, all hits, 60,000
            entries, float16 rows in both and a float32 array out; get_ratio the same at batches of 1. Its keys are the
            texts themselves, its lock is taken once a batch (*_locked_each: once a text, as its decorator does), and
            every text is a fresh str, as it comes from outside. *_float32: rows of float32 in both. put_many_ratio: the
            same for putting texts that are not there into a full cache. Medians of paired runs in turn
hits        hit_gain_pp: points of hit rate over LRU, both at 2,000 entries, Zipf(0.99) over 100,000 keys, after every
            5,000 requests a scan of 1,000 to 3,000 keys that never come again; the first 20,000 and scans aren't
            counted. hit_pct,
            lru_hit_pct, lru_shadow_pct (what the cache itself says that LRU would have had, scans included)
repeated    20,000 passages indexed eight times, each time with a tenth of them changed, with queries (Zipf) in between,
            in a cache that they fit: repeated_hit_rate of the texts that had been asked for before, all_hit_rate of all
            texts, new ones included; cache_saved_s is what the cache says
limit       never_over_limit: 1 where 2 million operations by 8 threads, releases and clearings among them, stayed
            within the limit, as another process sees the cache's mappings; it stops the process for each look, since
            what moves during one is counted twice. peak_of_limit, wrong_rows, looks; growth_over_limit_mb is what the
            whole process grew by, less the limit
release     release_ms: giving back 80 of 100 MB, median of 5; release_cpu_ms: its processor time; bare_release_ms: what
            the kernel takes for 80 MB of a bare mapping; release_gone_pct: what is gone of it from the process's
            anonymous memory. put_us: putting a new entry where there is room, 1,000 at a time; put_full_us: where
            another has to go, too

All takes some four minutes. cachetools: make setup-full, or pip install cachetools.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.report import Mark, publish
from benchmarks.sampling import held_bytes
from embank.cache.embeddings import EmbeddingCache
from embank.cache.slab import Pages

MARKS = {
    "overhead_bytes": Mark("<=", 48),
    "get_many_ratio": Mark(">=", 2.0),
    "get_ratio": Mark(">=", 0.6),
    "hit_gain_pp": Mark(">=", 12),
    "repeated_hit_rate": Mark(">=", 0.8),
    "never_over_limit": Mark(">=", 1),
    "wrong_rows": Mark("<=", 0),
    "release_ms": Mark("<", 20),
    "release_gone_pct": Mark(">=", 99),
}
MB = 1e6
DIMENSION = 384
ROW_BYTES = 2 * DIMENSION
OPS = 2_000_000
ENTRIES = 60_000
PAIRS = 9

Figures = dict[str, float | None]
Float32 = npt.NDArray[np.float32]


def vectors(count: int, dimension: int = DIMENSION, *, seed: int = 0) -> Float32:
    """Random rows; what is in them makes no difference to a cache."""
    return np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)


def passages(count: int, *, seed: int = 0) -> list[str]:
    """Texts of 40 to 900 characters, 300 on average, as passages have; all different."""
    chosen = random.Random(seed)
    words = ["".join(chosen.choices("abcdefghijklmnopqrstuvwxyz", k=chosen.randint(2, 9))) for _ in range(4_000)]
    lengths = [min(max(int(chosen.lognormvariate(3.7, 0.6)), 6), 140) for _ in range(count)]
    return [f"{number} {' '.join(chosen.choices(words, k=length))}" for number, length in enumerate(lengths)]


def fill(cache: EmbeddingCache, entries: int, dimension: int = DIMENSION, *, of: str = "text") -> None:
    """Put so many new entries, 1,000 at a time."""
    rows = vectors(1_000, dimension)
    for start in range(0, entries, 1_000):
        cache.put_many([f"{of} {number}" for number in range(start, start + 1_000)], rows, space="m")


def mapped_bytes(pid: int) -> int:
    """Memory in those mappings of a process that decline huge pages and core dumps, as only the cache's do here."""
    held_kib = anonymous_kib = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Anonymous:"):
            anonymous_kib = int(line.split()[1])
        elif line.startswith("VmFlags:") and {"nh", "dd"} <= set(line.split()):
            held_kib += anonymous_kib
    return held_kib << 10


# -- room ------------------------------------------------------------------------------------------------------------


def room(_: int) -> tuple[Figures, dict[str, Any]]:
    """What an entry takes beyond its row."""
    figures: Figures = {}
    detail = {}
    for name, row_bytes, options in (
        ("overhead_bytes", ROW_BYTES, {}),
        ("overhead_bytes_int8", DIMENSION + 4, {"dtype": "int8"}),
        ("overhead_bytes_lru", ROW_BYTES, {"policy": "lru"}),
    ):
        before = mapped_bytes(os.getpid())
        with EmbeddingCache("100MB", **options) as cache:  # type: ignore[arg-type]  # literals
            fill(cache, 300_000)
            stats, mapped = cache.stats(), mapped_bytes(os.getpid()) - before
        figures[name] = max(stats.used_bytes, mapped) / stats.entries - row_bytes
        detail[name] = {"entries": stats.entries, "counted_bytes": stats.used_bytes, "mapped_bytes": mapped}
    return figures, detail


# -- speed -----------------------------------------------------------------------------------------------------------


class Peer:
    """What one writes around cachetools: rows by text, one lock, the same arrays out."""

    def __init__(self, entries: int, dtype: str) -> None:
        from cachetools import LRUCache

        self._cache: Any = LRUCache(maxsize=entries)
        self._lock = threading.Lock()
        self._dtype = dtype
        self.lock_each = False

    def put_many(self, texts: Sequence[str], rows: Float32) -> None:
        """Keep a row of its own for each text."""
        kept = rows.astype(self._dtype)
        with self._lock:
            for text, row in zip(texts, kept, strict=True):
                self._cache[text] = row.copy()

    def get_many(self, texts: Sequence[str]) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """All of them are there."""
        cache = self._cache
        if self.lock_each:
            rows = []
            for text in texts:
                with self._lock:
                    rows.append(cache.get(text))
        else:
            with self._lock:
                rows = [cache.get(text) for text in texts]
        found = np.fromiter((row is not None for row in rows), bool, len(rows))
        return np.stack(rows).astype(np.float32, copy=False), found


def fresh(texts: Sequence[str]) -> list[str]:
    """The same texts as other objects, whose hash nobody has computed yet."""
    return [text.encode().decode() for text in texts]


def paired(ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, list[float]]:
    """Seconds of theirs over ours: the median of pairs, each first in every other one."""
    ratios = []
    for turn in range(PAIRS):
        if turn % 2:
            their_s, our_s = theirs(), ours()
        else:
            our_s, their_s = ours(), theirs()
        ratios.append(their_s / our_s)
    return statistics.median(ratios), ratios


def speed(_: int) -> tuple[Figures, dict[str, Any]]:
    """Against a locked cachetools LRUCache."""
    if find_spec("cachetools") is None:
        print("speed: cachetools is not installed (make setup-full)", file=sys.stderr)
        return {"get_many_ratio": None, "get_ratio": None}, {}
    texts, rows = passages(ENTRIES), vectors(ENTRIES)
    figures: Figures = {}
    detail: dict[str, Any] = {"characters": statistics.mean(map(len, texts))}

    def time_it(get: Callable[[list[str]], Any], size: int, count: int) -> Callable[[], float]:
        def run() -> float:
            chosen = np.random.default_rng(7).permutation(ENTRIES)[:count].tolist()
            batches = [fresh([texts[each] for each in chosen[at : at + size]]) for at in range(0, count, size)]
            gc.collect()
            began = time.perf_counter()
            for batch in batches:
                _, found = get(batch)
                assert found.all()
            return time.perf_counter() - began

        return run

    for dtype, suffix in (("float16", ""), ("float32", "_float32")):
        with EmbeddingCache("200MB", dtype=dtype) as cache:  # type: ignore[arg-type]  # a literal
            cache.put_many(texts, rows, space="m")
            peer = Peer(ENTRIES, dtype)
            peer.put_many(texts, rows)

            def get(batch: list[str], cache: EmbeddingCache = cache) -> Any:
                return cache.get_many(batch, space="m")

            for size, count, name in (
                (1_024, 20 * 1_024, "get_many_ratio"),
                (32, 12_800, "get_32_ratio"),
                (1, 5_000, "get_ratio"),
            ):
                ours = time_it(get, size, count)
                figures[name + suffix], detail[name + suffix] = paired(ours, time_it(peer.get_many, size, count))
                detail[f"{name}{suffix}_us_a_key"] = ours() / count * 1e6
            if not suffix:
                peer.lock_each = True
                figures["get_many_ratio_locked_each"], detail["get_many_ratio_locked_each"] = paired(
                    time_it(get, 1_024, 20_480), time_it(peer.get_many, 1_024, 20_480)
                )
    figures["put_many_ratio"], detail["put_many_ratio"] = _putting(texts, rows)
    return figures, detail


def _putting(texts: list[str], rows: Float32) -> tuple[float, list[float]]:
    with EmbeddingCache(ENTRIES // 2 * (ROW_BYTES + 48)) as cache:
        peer = Peer(ENTRIES // 2, "float16")
        cache.put_many(texts, rows, space="m")
        peer.put_many(texts, rows)
        turns = iter(range(10**6))

        def time_it(put: Callable[[list[str], Float32], Any]) -> Callable[[], float]:
            def run() -> float:
                turn = next(turns)
                new = [[f"{turn} {text}" for text in texts[at : at + 1_024]] for at in range(0, 20_480, 1_024)]
                gc.collect()
                began = time.perf_counter()
                for number, batch in enumerate(new):
                    put(batch, rows[number * 1_024 : (number + 1) * 1_024])
                return time.perf_counter() - began

            return run

        return paired(time_it(lambda batch, some: cache.put_many(batch, some, space="m")), time_it(peer.put_many))


# -- hits ------------------------------------------------------------------------------------------------------------


def hits(_: int) -> tuple[Figures, dict[str, Any]]:
    """Zipf with scans, at 2 % of the keys."""
    figures: Figures = {}
    detail = {}
    rates = {}
    for policy in ("s3fifo", "lru"):
        with EmbeddingCache(_limit_for(2_000, policy), policy=policy) as cache:
            rates[policy] = _zipf_with_scans(cache)
            stats = cache.stats()
            detail[policy] = {"entries": stats.entries, "used_bytes": stats.used_bytes, "hit_rate": stats.hit_rate}
            if policy == "s3fifo":
                figures["lru_shadow_pct"] = stats.lru_hit_rate * 100
    figures |= {"hit_pct": rates["s3fifo"] * 100, "lru_hit_pct": rates["lru"] * 100}
    return {"hit_gain_pp": (rates["s3fifo"] - rates["lru"]) * 100, **figures}, detail


def _limit_for(entries: int, policy: str) -> int:
    """The least limit at which so many entries stay."""
    low, high = 1, entries * 2_000
    while high - low > 1_000:
        middle = (low + high) // 2
        with EmbeddingCache(middle, policy=policy) as cache:  # type: ignore[arg-type]  # a literal
            fill(cache, entries + 2_000, 64)
            low, high = (low, middle) if cache.stats().entries >= entries else (middle, high)
    return high


def _zipf_with_scans(cache: EmbeddingCache, requests: int = 120_000, warm: int = 20_000) -> float:
    """The hit rate of the requests that are no scan, one text a call; missing ones are put, as after computing them."""
    dice = np.random.default_rng(11)
    weights = np.arange(1, 100_001) ** -0.99
    keys = dice.choice(100_000, requests, p=weights / weights.sum())
    row = vectors(1, 64)
    scanned = found = 0

    def ask(text: str) -> bool:
        if cache.get_many([text], space="m")[1][0]:
            return True
        cache.put_many([text], row, space="m")
        return False

    for number, key in enumerate(keys.tolist()):
        found += ask(f"key {key}") and number >= warm
        if number % 5_000 == 4_999:
            for _ in range(int(dice.integers(1_000, 3_001))):
                scanned += 1
                ask(f"scan {scanned}")
    return found / (requests - warm)


def repeated(_: int) -> tuple[Figures, dict[str, Any]]:
    """Indexing again what changed a little, and asking what others asked."""
    dice = np.random.default_rng(3)
    texts = passages(20_000)
    seen: set[tuple[str, str]] = set()
    again = 0

    def ask(some: list[str], kind: str) -> None:
        nonlocal again
        again += sum((kind, text) in seen for text in some)
        seen.update((kind, text) for text in some)
        cache.get_or_compute(some, lambda missing: vectors(len(missing)), space="m", kind=kind)

    with EmbeddingCache("100MB") as cache:
        for turn in range(8):
            for changed in dice.choice(len(texts), len(texts) // 10, replace=False).tolist():
                texts[changed] = f"{turn} {texts[changed]}"
            for start in range(0, len(texts), 256):
                ask(texts[start : start + 256], "passage")
                ask([f"question {number}" for number in (dice.zipf(1.3, 16) % 5_000).tolist()], "query")
        stats = cache.stats()
    figures: Figures = {"repeated_hit_rate": stats.hits / again, "all_hit_rate": stats.hit_rate}
    return figures | {"cache_saved_s": stats.seconds_saved}, {"repeated": again, "asked": stats.hits + stats.misses}


# -- the limit -------------------------------------------------------------------------------------------------------


def limit(ops: int) -> tuple[Figures, dict[str, Any]]:
    """Watch a process that works on a cache with eight threads."""
    limit_bytes = int(20 * MB)
    command = [sys.executable, "-m", "benchmarks.cachechurn", "--ops", str(ops), "--limit", str(limit_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before_bytes = json.loads(process.stdout.readline())["before_bytes"]
        lines: list[str] = []
        reader = threading.Thread(target=lambda out: lines.append(out.readline()), args=(process.stdout,))
        reader.start()
        peak = looks = over = 0
        while reader.is_alive():
            process.send_signal(signal.SIGSTOP)
            mapped = mapped_bytes(process.pid)
            process.send_signal(signal.SIGCONT)
            peak, looks, over = max(peak, mapped), looks + 1, over + (mapped > limit_bytes)
            reader.join(0.02)
        process.stdin.close()
    told = json.loads(lines[0])
    kept = not over and told["most_bytes"] <= limit_bytes
    return {
        "never_over_limit": float(kept),
        "peak_of_limit": peak / limit_bytes,
        "wrong_rows": told["wrong"],
        "looks": looks,
        "growth_over_limit_mb": (told["after_bytes"] - before_bytes - limit_bytes) / MB,
    }, {"ops": ops, "over": over, **told}


# -- release ---------------------------------------------------------------------------------------------------------


def release(_: int) -> tuple[Figures, dict[str, Any]]:
    """80 of 100 MB."""
    times, cpu_times, gone = [], [], []
    for turn in range(5):
        with EmbeddingCache("100MB") as cache:
            fill(cache, 130_000, of=f"{turn}")
            cache.get_many([f"{turn} {number}" for number in range(60_000, 130_000, 3)], space="m")
            gc.collect()
            held, used = held_bytes(os.getpid()), cache.used_bytes()
            began, cpu_began = time.perf_counter(), time.process_time()
            cache.release(int(80 * MB))
            times.append((time.perf_counter() - began) * 1e3)
            cpu_times.append((time.process_time() - cpu_began) * 1e3)
            gone.append((held - held_bytes(os.getpid())) / (used - cache.used_bytes()) * 100)
    bare = [_bare_release_ms() for _ in range(5)]
    figures: Figures = {
        "release_ms": statistics.median(times),
        "release_cpu_ms": statistics.median(cpu_times),
        "bare_release_ms": statistics.median(bare),
        "release_gone_pct": statistics.median(gone),
    }
    figures["put_us"] = _puts(EmbeddingCache("100MB"), warm=0) * 1e6
    figures["put_full_us"] = _puts(EmbeddingCache("40MB"), warm=60_000) * 1e6
    return figures, {
        "release_ms": times,
        "release_gone_pct": gone,
    }


def _bare_release_ms() -> float:
    pages = Pages(int(80 * MB))
    pages.array("u1", (int(80 * MB),))[:: mmap.PAGESIZE] = 1
    began = time.perf_counter()
    pages.drop(0, int(80 * MB))
    return (time.perf_counter() - began) * 1e3


def _puts(cache: EmbeddingCache, *, warm: int) -> float:
    """Seconds an entry of putting 60,000 new ones, 1,000 at a time."""
    with cache:
        fill(cache, warm, of="warm")
        began = time.perf_counter()
        fill(cache, 60_000, of="new")
        return (time.perf_counter() - began) / 60_000


PARTS: dict[str, Callable[[int], tuple[Figures, dict[str, Any]]]] = {
    part.__name__: part for part in (room, speed, hits, repeated, limit, release)
}


def main() -> None:
    """Measure the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them by default")
    parser.add_argument("--ops", type=int, default=OPS, help="operations of the part `limit` (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    figures: Figures = {}
    detail: dict[str, Any] = {}
    for name in given.parts or PARTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        measured, more = PARTS[name](given.ops)
        figures |= measured
        detail |= more
    publish("cache", figures, MARKS, detail, as_json=given.json)


if __name__ == "__main__":
    main()

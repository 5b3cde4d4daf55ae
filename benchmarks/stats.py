"""How quickly a large bank tells what it holds: `python -m benchmarks.stats [--rows 200000] [--json]`.

A bank of many vectors of somebody's own is made; `Bank.stats` is timed cold, each time on a bank that was just opened,
and `embank stats` beside `embank --version`, in turns, in processor seconds and as the clock has it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.report import Mark, publish
from embank.bank import open_bank
from embank.events.stream import Stream
from embank.records import Chunk, Document
from embank.store.local import LocalStore
from embank.store.protocol import Batch, Space, Upsert
from embank.store.settings import Settings

_DIMENSION = 384
_STEP = 8_192


def fill(bank: Path, rows: int) -> None:
    """Write so many documents of one passage each; the views are not made."""
    random = np.random.default_rng(1)
    store = LocalStore(bank, read_only=False, settings=Settings(), stream=Stream())
    collection = store.collection("big")
    space = Space(f"user:own:{_DIMENSION}", _DIMENSION, None)
    for first in range(0, rows, _STEP):
        vectors = random.standard_normal((min(_STEP, rows - first), _DIMENSION)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        texts = [f"text number {number}" for number in range(first, first + len(vectors))]
        upserts = [
            Upsert(Document(f"d{first + place:08}", text, {"n": place}), bytes(16), [Chunk(text, 0, len(text))])
            for place, text in enumerate(texts)
        ]
        collection.commit(Batch(None, upserts, vectors), space)
    store.database.close()


def stats_ms(bank: Path) -> float:
    """Milliseconds of the first `Bank.stats` after opening."""
    with open_bank(bank, read_only=True) as opened:
        started = time.perf_counter()
        assert opened.stats().documents
        return (time.perf_counter() - started) * 1000


def command_ms(*words: str) -> tuple[float, float]:
    """Milliseconds of a command: of the processor, and as the clock has it."""
    before, started = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "embank", *words], check=True, stdout=subprocess.DEVNULL)
    passed, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used * 1000, passed * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder, "big.bank")
        fill(bank, given.rows)
        stats = [stats_ms(bank) for _ in range(given.rounds)]
        pairs = [
            (command_ms("--version"), command_ms("stats", "--bank", str(bank), "--json")) for _ in range(given.rounds)
        ]
    used = [after[0] - before[0] for before, after in pairs]
    clock = [after[1] - before[1] for before, after in pairs]
    figures: dict[str, float | None] = {
        "stats_cold_ms": statistics.median(stats),
        "command_over_version_ms": statistics.median(clock),
        "command_over_version_cpu_ms": statistics.median(used),
        "version_ms": statistics.median(before[1] for before, _ in pairs),
    }
    detail = {
        "rows": given.rows,
        "rounds": given.rounds,
        "least_over_version_ms": min(clock),
        "stats_ms": sorted(stats),
    }
    marks = {"stats_cold_ms": Mark("<", 5), "command_over_version_ms": Mark("<=", 100)}
    publish("stats", figures, marks, detail, as_json=given.json)


if __name__ == "__main__":
    main()

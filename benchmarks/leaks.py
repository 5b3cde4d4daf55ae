"""Planted leaks and sound runs: `python -m benchmarks.leaks --json [--runs N]`.

Each run is a process of its own (`benchmarks.leaking`) that works at most 3,000 operations, with or without a leak of
0.1 MB per 100 operations.

found, planted       leaks laid to the right culprit (of N in each of five ways), and all that were planted
kind_named           of those found, where the kind of operation that leaks was named alone
operations_worst     most operations that it took until the culprit was known
false_alarms         sound runs (20) with an alarm of any sort
track_ns             what marking an operation costs where memory is not read; track_read_us where it is
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.leaking import OPERATIONS
from benchmarks.report import Mark, publish
from embank.memory.creep.settings import Settings
from embank.memory.creep.watch import Creep

CULPRITS = {
    "python": "python",
    "native": "native",
    "consumer": "consumer",
    "hidden": "consumer",
    "hoarding": "hoarding",
}
RUNS = 5
SOUND_RUNS = 20
ROUNDS, CALLS = 7, 20_000


def run(mode: str, seed: int) -> dict[str, Any]:
    """One process to its end."""
    command = [sys.executable, "-m", "benchmarks.leaking", mode, str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def cost_s(every: int) -> float:
    """Seconds an operation that does nothing, memory being read after every so-many-th; the median of some rounds."""
    creep = Creep(Settings(every_operations=every, attribute=False, warmup_operations=0))
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            with creep.track("search"):
                pass
        rounds.append((time.perf_counter() - began) / CALLS)
    creep.close()
    return statistics.median(rounds)


def main() -> None:
    """Run them all, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    leaks = [run(mode, seed) for mode in CULPRITS for seed in range(options.runs)]
    sound = [run("healthy", seed) for seed in range(SOUND_RUNS)]
    found = [each for each in leaks if each["culprit"] == CULPRITS[each["mode"]]]
    unread = cost_s(ROUNDS * CALLS + 1)
    figures = {
        "found": len(found),
        "planted": len(leaks),
        "kind_named": sum(each["kinds"] == ["ingest"] for each in found),
        "operations_worst": max((each["operations"] for each in found), default=None),
        "false_alarms": sum(each["alarms"] > 0 for each in sound),
        "track_ns": 1e9 * unread,
        "track_read_us": 1e6 * (cost_s(1) - unread),
    }
    marks = {
        "found": Mark(">=", len(leaks)),
        "operations_worst": Mark("<=", OPERATIONS),
        "false_alarms": Mark("<=", 0),
        "track_ns": Mark("<", 2_000),
    }
    publish("leaks", figures, marks, {"leaks": leaks, "sound": sound}, as_json=options.json)


if __name__ == "__main__":
    main()

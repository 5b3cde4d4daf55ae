"""What watching over memory costs: `python -m benchmarks.overhead --json [PART …] [--pairs N]`.

monitor     monitor_cpu_pct: processor time of the monitor's thread at 1 Hz over 20 s, of one processor, as the kernel
            counts it for that thread; in a tree of three processes with a file of 768 MB mapped and touched
events      event_ns: making and publishing one event with one subscriber, median of 7 runs of 50,000
throughput  MiniLM int8 with everything on against one thing off: texts/s on over texts/s off, in pairs, each arm alone
            in the process and first in every other pair; throughput_ratio_monitor, _recovery and _limits are the
            medians, *_lower and *_upper their 95 % interval (bootstrap over the pairs). The upper end reaches 0.99
            where a cost of one per cent can't be told from none; how much that says, the width of the interval tells.
            work_ratio_* are the same by processor time of the whole process, which neighbours on the machine touch
            less than the clock on the wall

The flags are settings: memory.monitor, recovery.enabled, memory.enabled. All takes some two and a half minutes.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import corpora
from benchmarks.report import Mark, interval, publish
from embank.embed import models
from embank.events.kinds import TextsEmbedded
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.monitor import Monitor
from embank.memory.settings import Settings

FLAGS = {"monitor": "memory.monitor", "recovery": "recovery.enabled", "limits": "memory.enabled"}
MARKS = {
    "monitor_cpu_pct": Mark("<", 0.5),
    "event_ns": Mark("<", 3_000),
    **{f"throughput_ratio_{name}_upper": Mark(">=", 0.99) for name in FLAGS},
}
MB = 1_000_000
MAPPED_BYTES = 768 * MB
WATCHED_S = 20.0
PAIRS = 9
CALLS = 16
TEXTS_A_CALL = 16

Figures = dict[str, float | None]


def monitor(_: int) -> tuple[Figures, dict[str, Any]]:
    """The monitor's thread, seen from outside."""
    with tempfile.TemporaryDirectory() as folder, Stream() as stream, stream.subscribe(capacity=100) as events:
        children = [
            subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
            for _ in range(2)
        ]
        mapped = _mapped(Path(folder, "file"))
        watching = Monitor(
            Governor(10_000 * MB, stream=stream), settings=Settings(sample_adaptive=False), publish=stream.publish
        )
        watching.start()
        try:
            time.sleep(2)  # past its first looks, and whatever is imported for them
            (thread,) = [each for each in threading.enumerate() if each.name == "embank-monitor"]
            before_ns, began, first = _cpu_ns(thread), time.perf_counter(), watching.state()
            time.sleep(WATCHED_S)
            spent_ns, seconds, last = _cpu_ns(thread) - before_ns, time.perf_counter() - began, watching.state()
            sample: Any = events.drain()[-1]
        finally:
            watching.close()
            mapped.close()
            for child in children:
                child.communicate()
    own_pct = 100 * (last.cpu_s - first.cpu_s) / seconds
    return {"monitor_cpu_pct": 100 * spent_ns / 1e9 / seconds}, {
        "samples": last.samples - first.samples,
        "processes": len(sample.processes),
        "cpu_pct_by_its_own_account": own_pct,
    }


def _mapped(path: Path) -> mmap.mmap:
    """A file of zeros, mapped, every page in memory."""
    with path.open("wb") as file:
        for _ in range(MAPPED_BYTES // MB):
            file.write(bytes(MB))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for place in range(0, MAPPED_BYTES, mmap.PAGESIZE):
        _ = mapped[place]
    return mapped


def _cpu_ns(thread: threading.Thread) -> int:
    return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0])


def events(_: int) -> tuple[Figures, dict[str, Any]]:
    """One event, made and published."""
    count, runs = 50_000, []
    with Stream() as stream, stream.subscribe(capacity=1_024):
        for _ in range(7):
            began = time.perf_counter_ns()
            for _ in range(count):
                stream.publish(TextsEmbedded("minilm", 16, 700, 720, 0.05, 0))
            runs.append((time.perf_counter_ns() - began) / count)
    return {"event_ns": statistics.median(runs)}, {"event_ns_runs": runs}


def throughput(pairs: int) -> tuple[Figures, dict[str, Any]]:
    """Everything on against one thing off."""
    corpus, texts = corpora.wordnet(CALLS * TEXTS_A_CALL)
    figures: Figures = {}
    detail: dict[str, Any] = {"corpus": corpus, "texts": len(texts), "pairs": pairs}
    # Holds the engine, so that no arm has to load it, and does nothing of its own.
    idle: dict[str, Any] = {"recovery.enabled": False}
    with models.load("minilm", **idle) as held:
        held.embed(texts)
        for flag, key in FLAGS.items():
            ratios: dict[str, list[float]] = {"throughput": [], "work": []}
            for number in range(pairs):
                order = (True, False) if number % 2 == 0 else (False, True)
                took = {on: _took(texts, key, on=on) for on in order}
                for kind, off_s, on_s in zip(ratios, took[False], took[True], strict=True):
                    ratios[kind].append(off_s / on_s)
            for kind, each in ratios.items():
                name = f"{kind}_ratio_{flag}"
                figures[name] = statistics.median(each)
                figures[f"{name}_lower"], figures[f"{name}_upper"] = interval(each)
            detail[f"ratios_{flag}"] = ratios
    return figures, detail


def _took(texts: list[str], key: str, *, on: bool) -> tuple[float, float]:
    """Seconds that the calls take in an arm, and of processor time; opening and closing it is left out."""
    flag: dict[str, Any] = {key: on}
    with models.load("minilm", memory="2GB", **flag) as model:
        model.embed(texts[:TEXTS_A_CALL])
        began, worked = time.perf_counter(), time.process_time()
        for start in range(0, len(texts), TEXTS_A_CALL):
            model.embed(texts[start : start + TEXTS_A_CALL])
        return time.perf_counter() - began, time.process_time() - worked


PARTS: dict[str, Callable[[int], tuple[Figures, dict[str, Any]]]] = {
    "monitor": monitor,
    "events": events,
    "throughput": throughput,
}


def main() -> None:
    """Measure the parts asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs of arms for each flag ({PAIRS})")
    given = parser.parse_args()
    figures: Figures = {}
    detail: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    for name in given.parts or PARTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        measured, more = PARTS[name](given.pairs)
        print(json.dumps(measured), file=sys.stderr, flush=True)  # what follows may take long, or fail
        figures |= measured
        detail |= more
    publish("overhead", figures, MARKS, detail, as_json=given.json)


if __name__ == "__main__":
    main()

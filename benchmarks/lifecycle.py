"""One model's life in a process of its own: `python -m benchmarks.lifecycle MODE TEXTS.json`; the last line is JSON.

`cycles` load, embed, release, again and again. `recycled` the same with the model in a child; between lines of input,
so that the tree can be looked at from outside. `cleanups` clean-ups forced while two clients ask. `corpus` a pass over
all texts, memory read after each thousand. `static` texts a second of the static model.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.sampling import held_bytes

CALL = 512
CYCLES = 5
CLEANUPS = 300
RATE_PASSES = 7


def cycles(texts: list[str]) -> dict[str, Any]:
    """Bytes at the start, then at the peak and after the release of each cycle; seconds of the first call after it."""
    import os

    import embank
    from embank.embed.loader import Loader  # noqa: F401 — the libraries are in memory before the start is taken

    pid = os.getpid()
    start = held_bytes(pid)
    seen, first_s = [], []
    with embank.models.load("minilm", keep_alive_s=None) as model:
        for _ in range(CYCLES):
            with _peak(pid) as peak:
                began = time.perf_counter()
                model.embed(texts[:1])
                first_s.append(time.perf_counter() - began)
                _embed(model.embed, texts)
            recovered = model.release()
            seen.append({"peak": peak(), "after": held_bytes(pid), "ok": recovered.ok, "seconds": recovered.seconds})
    return {"start": start, "cycles": seen, "first_s": first_s[1:]}


def recycled(texts: list[str]) -> dict[str, Any]:
    """Waits for a line before the model is loaded, after embedding and after recycling."""
    import embank

    with embank.models.load("minilm", isolation="process", keep_alive_s=None) as model:
        model.release()  # converted, if it had to be, and the parent's own part is in memory
        _pause("floor")
        _embed(model.embed, texts)
        _pause("embedded")
        began = time.perf_counter()
        model.release()
        seconds = time.perf_counter() - began
        _pause("recycled")
        began = time.perf_counter()
        model.embed(texts[:1])
        first_s = time.perf_counter() - began
    return {"recycle_s": seconds, "first_s": first_s}


def cleanups(texts: list[str]) -> dict[str, Any]:
    """Clean-ups one after the other while two clients ask one short text at a time."""
    from embank.embed.loader import Loader
    from embank.embed.settings import Settings
    from embank.events.kinds import Event, MemoryRecovered
    from embank.memory.recovery import Recovery
    from embank.memory.recovery_settings import Settings as RecoverySettings

    recovered: list[tuple[float, float, bool]] = []
    spans: list[tuple[float, float]] = []

    def hear(event: Event) -> None:
        if isinstance(event, MemoryRecovered):
            ended = time.perf_counter()
            recovered.append((ended - event.seconds, ended, event.ok))

    recovery = Recovery(RecoverySettings(least_interval_s=0.0, patience_s=0.05), publish=hear)
    model = Loader(Settings(keep_alive_s=None), recovery=recovery).get()
    _embed(model.embed, texts[:CALL])
    ended = threading.Event()

    def ask() -> None:
        short = [text for text in texts if len(text) < 200]
        number = 0
        while not ended.is_set():
            began = time.perf_counter()
            model.embed([short[number % len(short)]])
            spans.append((began, time.perf_counter()))
            number += 1

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    while len(recovered) < CLEANUPS:
        hoard = [bytes(4096) for _ in range(12_000)]  # 48 MB in small pieces: something for each clean-up to give back
        del hoard
        recovery.request("benchmark")
        time.sleep(0.05)
    ended.set()
    for client in clients:
        client.join()
    recovery.close()
    during: list[float] = []
    beside: list[float] = []
    for began, answered in spans:
        overlaps = any(began < stop and start < answered for start, stop, _ in recovered)
        (during if overlaps else beside).append(answered - began)
    return {
        "cleanup_s": [stop - start for start, stop, _ in recovered],
        "failed": sum(not ok for *_, ok in recovered),
        "during_s": during,
        "beside_s": beside,
    }


def corpus(texts: list[str]) -> dict[str, Any]:
    """Bytes before the load, then the peak so far and what is held after each thousand texts."""
    import os

    from embank.embed.loader import Loader
    from embank.embed.settings import Settings
    from embank.memory.recovery import Recovery

    pid = os.getpid()
    start = held_bytes(pid)
    recovery = Recovery()
    model = Loader(Settings(keep_alive_s=None), recovery=recovery).get()
    rows = []
    with _peak(pid) as peak:
        for at in range(0, len(texts), CALL):
            model.embed(texts[at : at + CALL])
            if len(texts[:at]) // 1000 != len(texts[: at + CALL]) // 1000:
                rows.append((min(at + CALL, len(texts)), held_bytes(pid), peak()))
    recovery.close()
    return {"start": start, "rows": rows}


def static(texts: list[str]) -> dict[str, Any]:
    """Passes over all texts."""
    from embank.embed.loader import Loader
    from embank.embed.settings import Settings

    embed = Loader(Settings(model="wordllama")).get().embed
    _embed(embed, texts)
    seconds = []
    for _ in range(RATE_PASSES):
        began = time.perf_counter()
        _embed(embed, texts)
        seconds.append(time.perf_counter() - began)
    return {"texts_per_s": len(texts) / statistics.median(seconds)}


def _embed(embed: Callable[[list[str]], object], texts: list[str]) -> None:
    for at in range(0, len(texts), CALL):
        embed(texts[at : at + CALL])


@contextmanager
def _peak(pid: int) -> Iterator[Callable[[], int]]:
    """The most that was held so far, sampled at 100 Hz."""
    most = held_bytes(pid)
    ended = threading.Event()

    def look() -> int:
        nonlocal most
        most = max(most, held_bytes(pid))
        return most

    def watch() -> None:
        while not ended.wait(0.01):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: most
    finally:
        look()
        ended.set()
        watcher.join()


def _pause(at: str) -> None:
    print(json.dumps({"at": at}), flush=True)
    sys.stdin.readline()


MODES: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "cycles": cycles,
    "recycled": recycled,
    "cleanups": cleanups,
    "corpus": corpus,
    "static": static,
}


def main() -> None:
    """Run one mode."""
    from embank.memory import hygiene

    hygiene.apply()
    mode, texts_file = sys.argv[1:]
    texts: list[str] = json.loads(Path(texts_file).read_text())
    import numpy as np  # noqa: F401 — every program here has it

    print(json.dumps(MODES[mode](texts)), flush=True)


if __name__ == "__main__":
    main()

"""Twice the load that a server can serve: `python -m benchmarks.overload --json`; `--seconds 60` for a shorter one.

`embank serve` runs as a process of its own; requests embed eight short texts that no cache has. First as many clients
as it takes ask without a pause: the most that is answered a second is the peak. Then twice as many requests a second
are sent, whether or not earlier ones were answered, and at the end one request at a time. Clients and server share the
machine.

overload_answered_or_refused_pct  requests of the overload that were answered with 200, or with 429 or 503 and a
                                  Retry-After; of all, those included that found no connection or no answer in 60 s
goodput_over_peak                 answers with 200 a second during the overload, over the peak
peak_mb, budget_mb                most that the server's processes held, anonymous + shared, sampled at 50 Hz
budget_over_ms                    how long they held more than the budget
recovered_within_s                from the end of the overload until an answer is as quick as twice one from before it
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.report import Mark, publish
from benchmarks.sampling import Sampler

MARKS = {
    "overload_answered_or_refused_pct": Mark(">=", 100),
    "goodput_over_peak": Mark(">=", 0.9),
    "budget_over_ms": Mark("<=", 0),
    "recovered_within_s": Mark("<=", 5),
}
BUDGET_MB = 512
TEXTS = 8
CLIENTS = (4, 16, 64)
PEAK_S = 8.0
ANSWER_S = 60.0
FACTOR = 2.0
LONGEST_RECOVERY_S = 60.0


class Asker:
    """Sends requests, no two alike, and counts what became of them."""

    def __init__(self, http: httpx2.AsyncClient, model: str, numbers: Iterator[int]) -> None:
        self._http = http
        self._model = model
        self._numbers = numbers
        self.outcomes: Counter[str] = Counter()

    async def ask(self) -> str:
        number = next(self._numbers)
        texts = [f"Question {number}.{each}: where does the river carry its silt?" for each in range(TEXTS)]
        try:
            answer = await self._http.post("/v1/embeddings", json={"model": self._model, "input": texts})
        except httpx2.HTTPError as error:
            outcome = type(error).__name__
        else:
            refused = answer.status_code in (429, 503) and "retry-after" in answer.headers
            outcome = "refused" if refused else str(answer.status_code)
        self.outcomes[outcome] += 1
        return outcome


async def peak(asker: Asker, clients: int, seconds: float) -> float:
    """Answers a second to so many clients, each of which asks again at once."""
    until_s = time.perf_counter() + seconds
    before = asker.outcomes["200"]

    async def client() -> None:
        while time.perf_counter() < until_s:
            await asker.ask()

    started_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return (asker.outcomes["200"] - before) / (time.perf_counter() - started_s)


async def overload(asker: Asker, rate: float, seconds: float) -> float:
    """Send `rate` requests a second, come what may; answers with 200 a second until the sending ends."""
    started_s = time.perf_counter()
    under_way: set[asyncio.Task[str]] = set()
    sent = 0
    while (passed_s := time.perf_counter() - started_s) < seconds:
        while sent < passed_s * rate:
            task = asyncio.create_task(asker.ask())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            sent += 1
        await asyncio.sleep(0.005)
    goodput = asker.outcomes["200"] / (time.perf_counter() - started_s)
    if under_way:
        await asyncio.wait(set(under_way))
    return goodput


async def once_s(asker: Asker) -> float:
    """Seconds that one request takes."""
    started_s = time.perf_counter()
    outcome = await asker.ask()
    return time.perf_counter() - started_s if outcome == "200" else float("inf")


async def measure(url: str, seconds: float) -> tuple[dict[str, float | None], dict[str, Any]]:
    """The figures of a server that listens, but those of its memory."""
    limits = httpx2.Limits(max_connections=900, max_keepalive_connections=900)
    # Waiting for one of the client's own connections is no refusal of the server's: it counts as waiting.
    async with httpx2.AsyncClient(base_url=url, timeout=ANSWER_S, limits=limits) as http:
        name = (await http.get("/v1/models")).json()["data"][0]["id"]
        numbers = itertools.count()
        warm = Asker(http, name, numbers)
        await peak(warm, 4, 2.0)
        calm_s = statistics.median([await once_s(warm) for _ in range(20)])
        peaks = {clients: await peak(warm, clients, PEAK_S) for clients in CLIENTS}
        most = max(peaks.values())
        loaded = Asker(http, name, numbers)
        sending = asyncio.create_task(overload(loaded, FACTOR * most, seconds))
        await asyncio.sleep(seconds)
        ended_s = time.perf_counter()
        probe = Asker(http, name, numbers)
        while await once_s(probe) > max(2 * calm_s, 0.1) and time.perf_counter() - ended_s < LONGEST_RECOVERY_S:
            pass
        recovered_s = time.perf_counter() - ended_s
        goodput = await sending
    sent = loaded.outcomes.total()
    fine = loaded.outcomes["200"] + loaded.outcomes["refused"]
    figures: dict[str, float | None] = {
        "peak_rps": most,
        "offered_rps": sent / seconds,
        "goodput_rps": goodput,
        "goodput_over_peak": goodput / most,
        "overload_answered_or_refused_pct": 100 * fine / sent,
        "recovered_within_s": recovered_s,
        "calm_ms": 1e3 * calm_s,
    }
    return figures, {"outcomes": dict(loaded.outcomes), "peaks_rps": {str(key): peaks[key] for key in peaks}}


def main() -> int:
    """Start a server, load it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the overload lasts")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a mark is missed")
    given = parser.parse_args()
    held: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="embank-overload-") as folder:
        command = [sys.executable, "-m", "embank", "serve", "--bank", str(Path(folder) / "a.bank"), "--port", "0"]
        command += ["--model", given.model, "--memory", f"{BUDGET_MB}MB", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                if server.stdout is None:
                    raise AssertionError("its output is a pipe")
                url = json.loads(server.stdout.readline())["endpoint"]
                with Sampler(server.pid, lambda _, held_bytes, since_s: held.append((held_bytes, since_s)), hertz=50):
                    figures, detail = asyncio.run(measure(url, given.seconds))
            finally:
                server.terminate()
                server.wait(60)
    figures["peak_mb"] = max(each for each, _ in held) / 1e6
    figures["budget_mb"] = float(BUDGET_MB)
    figures["budget_over_ms"] = 1e3 * sum(since_s for each, since_s in held if each > BUDGET_MB * 1e6)
    met = publish("overload", figures, MARKS, {**detail, "seconds": given.seconds}, as_json=given.json)
    return 0 if met or not given.strict else 1


if __name__ == "__main__":
    sys.exit(main())

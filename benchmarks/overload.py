"""Twice the load that a server can serve: `python -m benchmarks.overload --json`; `--seconds 60` for a shorter one.

`embank serve` runs as a process of its own; requests embed eight short texts that no cache has. First as many clients
as it takes ask without a pause: the most that is answered a second is the peak. Then twice as many requests a second
are sent, whether or not earlier ones were answered, and after them one request at a time. Server and generator
(`benchmarks.load`) share the machine; `detail` says what processor time the generator took.

overload_answered_or_refused_pct  requests of the overload that were answered with 200, or with 429 or 503 and a
                                  Retry-After; of all, those included that found no connection or no answer in 60 s
goodput_over_peak                 answers with 200 a second during the overload, over the peak
answered_p50_ms, answered_p99_ms  how long those took that were answered with 200
peak_mb, budget_mb                most that the server's processes held, anonymous + shared, sampled at 50 Hz
budget_over_ms                    how long they held more than the budget
recovered_within_s                from the end of the overload until an answer is as quick as twice one from before it
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load import Load, Turn, Work
from benchmarks.report import Mark, publish
from benchmarks.sampling import Sampler

MARKS = {
    "overload_answered_or_refused_pct": Mark(">=", 100),
    "goodput_over_peak": Mark(">=", 0.9),
    "budget_over_ms": Mark("<=", 0),
    "recovered_within_s": Mark("<=", 5),
}
BUDGET_MB = 512
PATH = "/v1/embeddings"
TEXTS = 8
CLIENTS = (4, 16, 64, 128)
CONNECTIONS = 900
"""Fewer than the server takes (http.connections)."""
MOST_RPS = 1_000
"""Bodies for as many requests a second are made ready."""
WARM_S = 2.0
PEAK_S = 8.0
ANSWER_S = 60.0
FACTOR = 2.0
LONGEST_RECOVERY_S = 60.0


class Asked:
    """A server that listens, and the generator that asks it; no two requests are alike."""

    def __init__(self, load: Load, port: int, model: str, room: Path) -> None:
        self._load = load
        self._port = port
        self._model = model
        self._room = room
        self._number = 0

    def closed(self, clients: int, seconds: float) -> Turn:
        """Clients that ask again as soon as they were answered."""
        self._load.begin(
            Work(self._port, PATH, self._bodies(int(MOST_RPS * seconds)), clients=clients, seconds=seconds)
        )
        return self._load.end()

    def begin(self, rate: float, seconds: float) -> None:
        """Send so many requests a second, come what may; `end` waits for their answers."""
        bodies = self._bodies(int(rate * seconds) + 1)
        self._load.begin(Work(self._port, PATH, bodies, clients=CONNECTIONS, seconds=seconds, rate=rate))

    def end(self) -> Turn:
        return self._load.end()

    def once_s(self) -> float:
        """Seconds that one request takes, from here; infinite where it is refused."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{PATH}", self._body().encode(), {"Content-Type": "application/json"}
        )
        started_s = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310 -- this machine's own http
                answer.read()
        except OSError:
            return float("inf")
        return time.perf_counter() - started_s

    def _body(self) -> str:
        self._number += 1
        texts = [f"Question {self._number}.{each}: where does the river carry its silt?" for each in range(TEXTS)]
        return json.dumps({"model": self._model, "input": texts})

    def _bodies(self, count: int) -> str:
        path = self._room / f"bodies-{self._number}.json"
        path.write_text(json.dumps([self._body() for _ in range(count)]))
        return str(path)


def measure(asked: Asked, seconds: float) -> tuple[dict[str, float | None], dict[str, Any]]:
    """The figures of a server, but those of its memory."""
    asked.closed(4, WARM_S)
    calm_s = statistics.median(asked.once_s() for _ in range(20))
    peaks = {clients: asked.closed(clients, PEAK_S) for clients in CLIENTS}
    most = max(turn.rate for turn in peaks.values())
    asked.begin(FACTOR * most, seconds)
    time.sleep(seconds)
    ended_s = time.perf_counter()
    while asked.once_s() > max(2 * calm_s, 0.1) and time.perf_counter() - ended_s < LONGEST_RECOVERY_S:
        pass
    recovered_s = time.perf_counter() - ended_s
    turn = asked.end()
    answered = turn.requests - turn.refused - turn.failed - turn.unanswered
    figures: dict[str, float | None] = {
        "peak_rps": most,
        "offered_rps": turn.requests / turn.seconds,
        "goodput_rps": turn.rate,
        "goodput_over_peak": turn.rate / most,
        "overload_answered_or_refused_pct": 100 * (answered + turn.refused) / turn.requests,
        "answered_p50_ms": turn.p50_ms,
        "answered_p99_ms": turn.p99_ms,
        "recovered_within_s": recovered_s,
        "calm_ms": 1e3 * calm_s,
    }
    return figures, {
        "overload": asdict(turn),
        "peaks": {str(clients): {**asdict(turn), "rate": turn.rate} for clients, turn in peaks.items()},
    }


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
                port = int(url.rpartition(":")[2])
                sampler = Sampler(
                    server.pid, lambda _, held_bytes, since_s: held.append((held_bytes, since_s)), hertz=50
                )
                with Load() as load, sampler:
                    figures, detail = measure(Asked(load, port, given.model, Path(folder)), given.seconds)
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

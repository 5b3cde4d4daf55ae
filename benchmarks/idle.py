"""Ten thousand connections that say nothing: `python -m benchmarks.idle --json`.

idle_mb            what the server's processes hold more with them, anonymous + shared
idle_answered_pct  requests that are answered with 200 meanwhile, each on a connection of its own
idle_ms            the median of their times; calm_ms before
closed_within_s    until the server has closed all of them, http.header_wait_s (20) included
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from benchmarks.report import Mark, publish
from benchmarks.sampling import held_bytes, tree

MARKS = {"idle_answered_pct": Mark(">=", 100), "idle_mb": Mark("<=", 150), "closed_within_s": Mark("<=", 30)}
ASKED = 100
SETTINGS = {"EMBANK_HTTP__CONNECTIONS": "12000", "EMBANK_HTTP__HEADER_WAIT_S": "20"}


def times_ms(url: str) -> list[float]:
    """Milliseconds of the requests that are answered with 200."""
    taken = []
    for _ in range(ASKED):
        started_s = time.perf_counter()
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/collections", timeout=30).status_code == 200:
                taken.append(1e3 * (time.perf_counter() - started_s))
    return taken


def measure(pid: int, url: str, connections: int) -> dict[str, float | None]:
    """The figures of a server that listens."""
    calm = times_ms(url)
    before = sum(held_bytes(each) for each in tree(pid))
    address: Any = (urlsplit(url).hostname, urlsplit(url).port)
    opened_s = time.perf_counter()
    held = [socket.create_connection(address, timeout=60) for _ in range(connections)]
    taken = times_ms(url)
    during = sum(held_bytes(each) for each in tree(pid))
    for connection in held:
        with suppress(ConnectionResetError):
            connection.recv(1)
        connection.close()
    return {
        "connections": float(connections),
        "idle_mb": (during - before) / 1e6,
        "idle_answered_pct": 100 * len(taken) / ASKED,
        "idle_ms": statistics.median(taken) if taken else None,
        "calm_ms": statistics.median(calm) if calm else None,
        "closed_within_s": time.perf_counter() - opened_s,
    }


def main() -> int:
    """Start a server, hold connections to it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--model", default="minilm")
    given = parser.parse_args()
    wanted = given.connections + 1_000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard))
    with tempfile.TemporaryDirectory(prefix="embank-idle-") as folder:
        command = [sys.executable, "-m", "embank", "serve", "--bank", str(Path(folder) / "a.bank"), "--port", "0"]
        command += ["--model", given.model, "--memory", "512MB", "--json"]
        environ = {**os.environ, **SETTINGS}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as server:
            try:
                if server.stdout is None:
                    raise AssertionError("its output is a pipe")
                url = json.loads(server.stdout.readline())["endpoint"]
                figures = measure(server.pid, url, given.connections)
            finally:
                server.terminate()
                server.wait(60)
    publish("idle", figures, MARKS, {}, as_json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

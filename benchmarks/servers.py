"""Servers that are asked the same over HTTP, each in a process of its own on a free port of the loopback address.

Each is started as its own documentation says, with a model's files from this machine. What a server holds is anonymous
and shared memory of its process tree, sampled from outside; its processor time is its tree's, as the kernel counts it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from benchmarks.peers import python_of
from benchmarks.rivals import model_folder
from benchmarks.sampling import PROC, Sampler, tree

_START_S = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A running one. `path` is where it is asked, `peak_bytes` the most that its tree held."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        path: str = "",
        alive: str,
        log: Path,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.name, self.port, self.path = name, port, path
        self.peak_bytes = 0
        self._log: IO[bytes] = log.open("wb")
        self._log_path = log
        self._process = subprocess.Popen(
            command, env={**os.environ, **(environ or {})}, stdout=self._log, stderr=self._log
        )
        try:
            self._wait(f"http://127.0.0.1:{port}{alive}")
        except BaseException:
            self._end()
            raise
        self._sampler = Sampler(self._process.pid, self._see, hertz=5)

    def mapped_bytes(self) -> int:
        """What its tree holds now with its part of mapped files, as the kernel shares them out (PSS)."""
        return sum(_pss_bytes(pid) for pid in tree(self._process.pid))

    def cpu_s(self) -> float:
        """Processor time that its tree has used so far; that of processes which ended is not in it."""
        return sum(_cpu_s(pid) for pid in tree(self._process.pid))

    def __enter__(self) -> Self:
        self._sampler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sampler.__exit__(kind, error, trace)
        self._end()

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _see(self, _since_s: float, held_bytes: int, _late_s: float) -> None:
        self.peak_bytes = max(self.peak_bytes, held_bytes)

    def _wait(self, url: str) -> None:
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s and self._process.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=5):  # noqa: S310 -- this machine's own http
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not start: {self._log_path.read_text(errors='replace').strip()[-500:]}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def embank(bank: Path, room: Path, *settings: str, path: str = "/v1/embeddings") -> Server:
    """`embank serve` as it is installed, with further settings."""
    port = free_port()
    given = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "embank", "serve", "--bank", str(bank), "--port", str(port), *given]
    return Server("embank", command, port=port, path=path, alive="/readyz", log=room / "embank.log")


def infinity(room: Path) -> Server | None:
    """Infinity's own server with the original model; None where it can't be installed."""
    python = python_of("infinity")
    if python is None:
        return None
    port = free_port()
    command = [str(python.parent / "infinity_emb"), "v2", "--model-id", str(model_folder()), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--engine", "torch", "--device", "cpu", "--served-model-name", "minilm"]
    return Server(
        "infinity",
        [*command, "--no-preload-only", "--url-prefix", "/v1"],
        port=port,
        path="/v1/embeddings",
        alive="/health",
        log=room / "infinity.log",
        environ=_alone(),
    )


def fastembed(folder: Path, room: Path) -> Server | None:
    """What `benchmarks.fastembedapp` makes of fastembed and FastAPI, with an ONNX model; None where it can't be had."""
    python = python_of("fastembed-server")
    if python is None:
        return None
    port = free_port()
    command = [str(python), "-m", "uvicorn", "benchmarks.fastembedapp:app", "--port", str(port), "--no-access-log"]
    environ = {**_alone(), "FASTEMBED_FOLDER": str(folder), "PYTHONPATH": str(Path(__file__).parents[1])}
    return Server(
        "fastembed",
        command,
        port=port,
        path="/v1/embeddings",
        alive="/live",
        log=room / "fastembed.log",
        environ=environ,
    )


def chroma(folder: Path, room: Path) -> Server | None:
    """`chroma run`; None where it can't be installed."""
    python = python_of("chroma")
    if python is None:
        return None
    port = free_port()
    command = [str(python.parent / "chroma"), "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(folder)]
    log = room / "chroma.log"
    return Server("chroma", command, port=port, alive="/api/v2/heartbeat", log=log, environ=_alone())


def idle(size: int, room: Path) -> Server:
    """One that does nothing but answer so many bytes."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.loading", "idle", str(port), str(size)]
    return Server("idle", command, port=port, path="/", alive="", log=room / "idle.log")


def _alone() -> dict[str, str]:
    """Their environment is the one that they were installed into, and nothing is fetched or told."""
    return {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1"}


def _cpu_s(pid: int) -> float:
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it is gone
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _pss_bytes(pid: int) -> int:
    try:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:  # it is gone
        return 0
    return next((1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)

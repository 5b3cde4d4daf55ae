"""A load generator that takes little of the processor that it measures: `python -m benchmarks.load`.

A process of its own, told what to do one JSON object a line, answering one line each. Requests are bytes that are ready
beforehand; connections are kept; of an answer only the status and the length are read, unless the answers themselves
are asked for. Clients wait for their answer before they ask again. What it could do at most, `ceiling` tells: it asks a
server that does nothing (`python -m benchmarks.load idle PORT BYTES`), beside which it runs.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REST_S = 0.3
"""Between two turns: what the one before left to be done is done."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one turn is: `clients` ask for `seconds`, or until each body of the file was sent once where that is 0."""

    port: int
    path: str
    bodies: str
    """A file with a JSON list of bodies, as text. A later turn goes on with those that were not sent yet."""
    again: bool = False
    """Whether to begin anew when all were sent."""
    clients: int = 1
    seconds: float = 0.0
    answers: str = ""
    """Where to write the answers, as a JSON list in the order of the bodies."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of it. `cpu_s` is the generator's own processor time; `failed` are answers other than 200."""

    requests: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return (self.requests - self.failed) / self.seconds


class _Client(asyncio.Protocol):
    """One connection, which asks again as soon as it was answered."""

    def __init__(self, work: Iterator[tuple[int, bytes]], until_s: float, keep: dict[int, bytes] | None) -> None:
        self._work = work
        self._until_s = until_s
        self._keep = keep
        self._received = bytearray()
        self._whole_bytes = 0
        self.seconds: list[float] = []
        self.failed = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        following = None if time.perf_counter() >= self._until_s else next(self._work, None)
        if following is None:
            self.ended.set_result(None)
            self._transport.close()
            return
        self._number, request = following
        self._asked_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self._whole_bytes:
            head = received.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(received, 0, head + 2)
            if length is None:
                raise RuntimeError(f"an answer without a length: {bytes(received[:head])!r}")
            self._head_bytes = head + 4
            self._whole_bytes = head + 4 + int(length.group(1))
        if len(received) < self._whole_bytes:
            return
        self.seconds.append(time.perf_counter() - self._asked_s)
        if received[9:12] != b"200":
            self.failed += 1
            print(bytes(received[:600]), file=sys.stderr)
        if self._keep is not None:
            self._keep[self._number] = bytes(received[self._head_bytes : self._whole_bytes])
        del received[: self._whole_bytes]
        self._whole_bytes = 0
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or RuntimeError("the server hung up"))


async def _run(work: Work, requests: Iterator[tuple[int, bytes]]) -> Turn:
    loop = asyncio.get_running_loop()
    kept: dict[int, bytes] | None = {} if work.answers else None
    started = time.perf_counter()
    until_s = started + work.seconds if work.seconds else float("inf")
    clients = []
    used = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(work.clients):
        _, client = await loop.create_connection(lambda: _Client(requests, until_s, kept), "127.0.0.1", work.port)
        clients.append(client)
    await asyncio.gather(*(client.ended for client in clients))
    seconds, now = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    if kept is not None:
        _keep(Path(work.answers), kept)
    taken = sorted(each for client in clients for each in client.seconds)
    return Turn(
        requests=len(taken),
        failed=sum(client.failed for client in clients),
        seconds=seconds,
        p50_ms=1e3 * taken[len(taken) // 2],
        p99_ms=1e3 * taken[min(int(0.99 * len(taken)), len(taken) - 1)],
        cpu_s=now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
    )


def _keep(path: Path, answers: dict[int, bytes]) -> None:
    path.write_text(json.dumps([answers[number].decode() for number in sorted(answers)]))


def _requests(work: Work) -> list[tuple[int, bytes]]:
    """All of a file, ready to be sent: nothing of it is done while others are timed."""
    head = f"POST {work.path} HTTP/1.1\r\nHost: 127.0.0.1:{work.port}\r\nContent-Type: application/json\r\n"
    bodies = [text.encode() for text in json.loads(Path(work.bodies).read_text())]
    return [
        (number, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) for number, body in enumerate(bodies)
    ]


class Load:
    """The generator, as its parent holds it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, work: Work) -> Turn:
        """One turn. `RuntimeError` where an answer was none, or the bodies ran out."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the generator has no pipes")
        self._process.stdin.write(json.dumps(asdict(work)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with {self._process.wait()}")
        turn = Turn(**json.loads(line))
        if turn.failed:
            raise RuntimeError(f"{turn.failed} of {turn.requests} requests to {work.path} failed")
        time.sleep(_REST_S)
        return turn

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=30)


class _Idle(asyncio.Protocol):
    """Answers every request at once with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, head + 2) if head >= 0 else None
        if head >= 0 and len(self._received) >= head + 4 + (0 if length is None else int(length.group(1))):
            self._received.clear()
            self._transport.write(self._answer)


async def _idle(port: int, size: int) -> None:
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + b" " * size
    server = await asyncio.get_running_loop().create_server(lambda: _Idle(answer), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Do as told until there is no more."""
    if sys.argv[1:2] == ["idle"]:
        asyncio.run(_idle(int(sys.argv[2]), int(sys.argv[3])))
        return
    under_way: dict[tuple[int, str, str], Iterator[tuple[int, bytes]]] = {}
    for line in sys.stdin:
        work = Work(**json.loads(line))
        key = (work.port, work.path, work.bodies)
        if not work.seconds:  # all of them, once, whatever was sent before
            turn = asyncio.run(_run(work, iter(_requests(work))))
        else:
            if key not in under_way:
                requests = _requests(work)
                under_way[key] = cycle(requests) if work.again else iter(requests)
            turn = asyncio.run(_run(work, under_way[key]))
        print(json.dumps(asdict(turn)), flush=True)


if __name__ == "__main__":
    main()

"""The process that sends the requests: `benchmarks.load` starts it, and tells it what to do, one JSON object a line.

It says when it begins, and then what came of it, in one line each. Requests are bytes that are ready beforehand;
connections are kept; of an answer only the status, the length and whether it says when to come again are read, unless
the answers themselves are asked for.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.load import BEGUN, Turn, Work

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_AGAIN = re.compile(rb"\r\nretry-after: *\d", re.IGNORECASE)
_TICK_S = 0.005
_ANSWER_S = 60.0
"""Whoever has no answer by then has none."""
_IDLE_S = 2.0
"""A connection that was not used for so long is not used again: servers close such at any moment."""

_Request = tuple[int, bytes]


class _Connection(asyncio.Protocol):
    """Carries one request at a time, and tells of its answer; `status` is 0 where the server hung up without one."""

    def __init__(self, on_answer: Callable[[_Connection], None]) -> None:
        self._on_answer = on_answer
        self._received = bytearray()
        self._whole_bytes = 0
        self._busy = False
        self.number = 0
        self.asked_s = self.seconds = 0.0
        self.status = 0
        self.says_again = False
        self.answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def ask(self, request: _Request, asked_s: float) -> None:
        self.number, content = request
        self.asked_s = asked_s
        self._busy = True
        self._transport.write(content)

    def close(self) -> None:
        self._transport.close()

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

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
        self.status = int(received[9:12])
        self.says_again = _AGAIN.search(received, 0, self._head_bytes) is not None
        self.answer = bytes(received[: self._whole_bytes])
        del received[: self._whole_bytes]
        self._whole_bytes = 0
        self._end()

    def body(self) -> bytes:
        return self.answer[self._head_bytes :]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- the form of a protocol
        if self._busy:
            self.status, self.says_again, self.answer = 0, False, b""
            self._end()

    def _end(self) -> None:
        self._busy = False
        self.seconds = time.perf_counter() - self.asked_s
        self._on_answer(self)


class _Tally:
    """What became of the requests."""

    def __init__(self, work: Work) -> None:
        self._keep: dict[int, bytes] | None = {} if work.answers else None
        self._path = work.answers
        self._used = resource.getrusage(resource.RUSAGE_SELF)
        self._started = time.perf_counter()
        self.seconds: list[float] = []
        self.refused = self.failed = self.unanswered = 0

    def add(self, done: _Connection) -> None:
        if done.status == 200:
            self.seconds.append(done.seconds)
        elif done.status in (429, 503) and done.says_again:
            self.refused += 1
        elif done.status:
            self.failed += 1
            print(done.answer[:600], file=sys.stderr)
        else:
            self.unanswered += 1
        if self._keep is not None:
            self._keep[done.number] = done.body()

    def turn(self, answered: int, seconds: float) -> Turn:
        """All of it; `answered` of the requests were in the first `seconds`."""
        now = resource.getrusage(resource.RUSAGE_SELF)
        if self._keep is not None:
            answers = [self._keep[number].decode() for number in sorted(self._keep)]
            Path(self._path).write_text(json.dumps(answers))
        taken = sorted(self.seconds) or [float("nan")]
        return Turn(
            requests=len(self.seconds) + self.refused + self.failed + self.unanswered,
            answered=answered,
            refused=self.refused,
            failed=self.failed,
            unanswered=self.unanswered,
            seconds=seconds,
            p50_ms=1e3 * taken[len(taken) // 2],
            p99_ms=1e3 * taken[min(int(0.99 * len(taken)), len(taken) - 1)],
            cpu_s=now.ru_utime + now.ru_stime - self._used.ru_utime - self._used.ru_stime,
        )


async def _connected(port: int, on_answer: Callable[[_Connection], None]) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(on_answer), "127.0.0.1", port)
    return connection


async def _closed(work: Work, requests: Iterator[_Request]) -> Turn:
    """Clients that wait for their answer before they ask again."""
    tally, started = _Tally(work), time.perf_counter()
    until_s = started + work.seconds if work.seconds else float("inf")
    ended = asyncio.Event()
    under_way = work.clients

    def ask(connection: _Connection) -> None:
        nonlocal under_way
        now = time.perf_counter()
        following = None if now >= until_s or not connection.is_open else next(requests, None)
        if following is not None:
            connection.ask(following, now)
            return
        connection.close()
        under_way -= 1
        if not under_way:
            ended.set()

    def on_answer(connection: _Connection) -> None:
        tally.add(connection)
        ask(connection)

    for connection in [await _connected(work.port, on_answer) for _ in range(work.clients)]:
        ask(connection)
    await ended.wait()
    return tally.turn(len(tally.seconds), time.perf_counter() - started)


class _Pool:
    """Connections, made as they are needed, `most` at once."""

    def __init__(self, port: int, most: int, tally: _Tally) -> None:
        self._port = port
        self._most = most
        self._tally = tally
        self._idle: list[_Connection] = []
        self._under_way: set[_Connection] = set()
        self._all_ended = asyncio.Event()

    async def take(self) -> _Connection | None:
        """One that is free; None where all are busy."""
        connection = self._free()
        if connection is None:
            if len(self._under_way) >= self._most:
                return None
            connection = await _connected(self._port, self._on_answer)
        self._under_way.add(connection)
        return connection

    async def end(self) -> None:
        """Wait for what is under way, but not for ever; then close all."""
        if self._under_way:
            self._all_ended.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), _ANSWER_S)
        for connection in [*self._under_way, *self._idle]:  # who still waits counts as not answered
            connection.close()
        await asyncio.sleep(_TICK_S)

    def _free(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            idle_s = time.perf_counter() - connection.asked_s - connection.seconds
            if idle_s < _IDLE_S and connection.is_open:
                return connection
            connection.close()
        return None

    def _on_answer(self, connection: _Connection) -> None:
        self._tally.add(connection)
        self._under_way.discard(connection)
        if connection.is_open:
            self._idle.append(connection)
        if not self._under_way:
            self._all_ended.set()


async def _open(work: Work, requests: Iterator[_Request]) -> Turn:
    """So many requests a second, whether or not earlier ones were answered.

    A request that no connection is free for waits here, and its time runs from when it was due.
    """
    tally, started = _Tally(work), time.perf_counter()
    pool = _Pool(work.port, work.clients, tally)
    due = sent = 0
    while (passed_s := time.perf_counter() - started) < work.seconds:
        due = int(passed_s * work.rate)
        while sent < due and (connection := await pool.take()) is not None:
            connection.ask(next(requests), started + sent / work.rate)
            sent += 1
        await asyncio.sleep(_TICK_S)
    answered, seconds = len(tally.seconds), time.perf_counter() - started
    tally.unanswered += due - sent
    await pool.end()
    return tally.turn(answered, seconds)


def _requests(work: Work) -> list[_Request]:
    """All of a file, ready to be sent: nothing of it is done while others are timed."""
    head = f"POST {work.path} HTTP/1.1\r\nHost: 127.0.0.1:{work.port}\r\nContent-Type: application/json\r\n"
    bodies = [text.encode() for text in json.loads(Path(work.bodies).read_text())]
    return [
        (number, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) for number, body in enumerate(bodies)
    ]


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
    """Do as told until there is no more; or, for `idle PORT BYTES`, be a server that does nothing."""
    if sys.argv[1:2] == ["idle"]:
        asyncio.run(_idle(int(sys.argv[2]), int(sys.argv[3])))
        return
    under_way: dict[tuple[int, str, str], Iterator[_Request]] = {}
    for line in sys.stdin:
        work = Work(**json.loads(line))
        key = (work.port, work.path, work.bodies)
        if not work.seconds:  # all of them, once, whatever was sent before
            requests = iter(_requests(work))
        else:
            if key not in under_way:
                ready = _requests(work)
                under_way[key] = cycle(ready) if work.again else iter(ready)
            requests = under_way[key]
        print(json.dumps(BEGUN), flush=True)
        turn = asyncio.run(_open(work, requests) if work.rate else _closed(work, requests))
        print(json.dumps(asdict(turn)), flush=True)


if __name__ == "__main__":
    main()

"""The worker: a child process that holds a model, `python -m embank.embed.worker.child SOCKET MEMORY PARENT NUMBER`.

Reads frames (see `wire`) from the socket, opens the engine that the first one names, and answers requests: as many at
once as the engine has lanes, each in a thread of its own, while the main thread goes on reading, so that a ping is
answered also in the midst of a batch. It trims its allocator when it has been idle for a moment, and ends when its
parent does, or when what it reads is garbled.

Decides nothing: when it is replaced, what is tried again and what it may hold is its parent's affair.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embank.embed.worker.wire import Frame, Frames, Garbled, Kind, Payload

if TYPE_CHECKING:
    from embank.embed.engine import Engine, Grant
    from embank.events.kinds import Event

GARBLED_STATUS = 4
_IDLE_TRIM_S = 1.0
_RECEIVED_BYTES = 64 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker; the exit status."""
    from embank.memory import hygiene
    from embank.system.process import die_with_parent

    hygiene.apply()
    given = [int(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    socket_fd, memory_fd, parent_pid, generation = given
    die_with_parent(parent_pid=parent_pid)
    return Worker(socket.socket(fileno=socket_fd), memory_fd, generation).serve()


class Worker:
    """See the module."""

    def __init__(self, connection: socket.socket, memory_fd: int, generation: int) -> None:
        self._connection = connection
        self._memory_fd = memory_fd
        self._generation = generation
        self._frames = Frames(generation)
        self._sending = threading.Lock()
        self._requests: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._budget = _ParentsBudget(self)
        self._in_hand = 0  # changed by the main thread (+) and, under the lock below, by lanes (-)
        self._counting = threading.Lock()

    def serve(self) -> int:
        """Read until the parent hangs up (0) or what comes is garbled."""
        handler = _ToParent(self)
        logging.getLogger("embank").addHandler(handler)
        is_trimmed = True
        while True:
            if not select.select([self._connection], [], [], None if is_trimmed else _IDLE_TRIM_S)[0]:
                if self._in_hand == 0:
                    _trim()
                    is_trimmed = True
                continue
            try:
                data = self._connection.recv(_RECEIVED_BYTES)
            except ConnectionResetError:
                return 0
            if not data:
                return 0
            try:
                for frame in self._frames.feed(data):
                    is_trimmed = self._heard(frame) and is_trimmed
            except Garbled as error:
                sys.stderr.write(f"the parent's message is garbled: {error}\n")
                return GARBLED_STATUS

    def send(self, kind: Kind, number: int = 0, payload: Payload | None = None, **body: Any) -> None:
        """Thread-safe. Where the parent has gone, the main thread finds out."""
        data = Frame(kind, self._generation, number, body, payload or Payload()).encoded()
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(data)

    def _heard(self, frame: Frame) -> bool:
        """Act on one frame; whether it was nothing that takes memory."""
        if frame.kind is Kind.PING:
            self.send(Kind.PONG, frame.id)
            return True
        if frame.kind is Kind.GRANT:
            self._budget.answers.put(frame)
            return True
        with self._counting:
            self._in_hand += 1
        if frame.kind is Kind.LOAD:
            threading.Thread(target=self._load, args=(frame,), daemon=True).start()
        elif frame.kind in _DOERS:
            self._requests.put(frame)
        else:
            raise Garbled(f"a worker is never sent {frame.kind.name}")
        return False

    # --- loading ----------------------------------------------------------------------------------------------------

    def _load(self, frame: Frame) -> None:
        """Open the engine, tell the parent, and become the first lane."""
        try:
            engine = self._open(frame)
            from embank.embed.worker.handoff import Identity, told

            identity = Identity.of(engine)
            body = told(identity)
        except BaseException as error:  # noqa: BLE001 — whatever it is, the parent must know
            self._send_error(0, error)
            return
        self._budget.asks_parent = False
        for _ in range(identity.lanes - 1):
            threading.Thread(target=self._compute, args=(engine,), daemon=True).start()
        # What the load left behind is the allocator's: the model's own pages are what should be counted.
        _trim()
        with self._counting:
            self._in_hand -= 1
        self.send(Kind.READY, 0, None, identity=body)
        self._compute(engine)

    def _open(self, frame: Frame) -> Engine:
        from embank.embed.worker.handoff import heard_request
        from embank.registry import ENGINES, resolve

        def on_progress(fraction: float, step: str) -> None:
            self.send(Kind.PROGRESS, fraction=fraction, step=step)

        name, request = heard_request(
            frame.body, budget=self._budget, publisher=_ToStream(self), on_progress=on_progress
        )
        engine: Engine = resolve(ENGINES, name)(request)
        return engine

    # --- computing --------------------------------------------------------------------------------------------------

    def _compute(self, engine: Engine) -> None:
        while True:
            frame = self._requests.get()
            try:
                _DOERS[frame.kind](self, engine, frame)
            except BaseException as error:  # noqa: BLE001 — likewise
                self._send_error(frame.id, error)
            with self._counting:
                self._in_hand -= 1

    def _encode(self, engine: Engine, frame: Frame) -> None:
        import numpy as np

        from embank.embed.worker.memfd import read_at
        from embank.embed.worker.wire import packed_rows, unpacked_texts

        texts = unpacked_texts(read_at(self._memory_fd, frame.payload), frame.body["texts"])
        encoded = engine.encode(texts, frame.body["kind"])
        owners = encoded.owners
        parts = [*packed_rows(encoded.rows)]
        if owners is not None:
            parts.append(np.ascontiguousarray(owners, dtype=np.int32).data.cast("B"))
        self._answer(frame, parts, rows=len(encoded.rows), owned=owners is not None, truncated=encoded.truncated)

    def _count(self, engine: Engine, frame: Frame) -> None:
        import numpy as np

        from embank.embed.worker.memfd import read_at
        from embank.embed.worker.wire import unpacked_texts

        texts = unpacked_texts(read_at(self._memory_fd, frame.payload), frame.body["texts"])
        self._answer(frame, [np.array(engine.count(texts), dtype=np.int64).tobytes()])

    def _forward(self, engine: Engine, frame: Frame) -> None:
        import numpy as np

        from embank.embed.worker.memfd import read_at
        from embank.embed.worker.wire import unpacked_rows
        from embank.errors import EmbeddingFailed

        numbers = np.frombuffer(read_at(self._memory_fd, frame.payload), dtype=np.int32)
        rows = unpacked_rows(numbers, frame.body["rows"])
        vectors = engine.forward(rows)
        # Judged here, where the engine is: what the parent finds wrong is a damaged message, not a model's doing.
        wanted = (len(rows), engine.fingerprint.dimension)
        if vectors.shape != wanted:
            name = engine.fingerprint.name
            raise EmbeddingFailed(f"the model {name!r} answered with shape {vectors.shape} where {wanted} was due")
        self._answer(frame, [np.ascontiguousarray(vectors, dtype=np.float32).data.cast("B")], rows=len(rows))

    def _answer(self, frame: Frame, parts: list[bytes | memoryview], **body: Any) -> None:
        from embank.embed.worker.memfd import write_at

        wanted = sum(map(len, parts))
        if wanted > frame.body["room"]:
            # The parent asks again, with more room: nothing has to be kept for it here.
            self.send(Kind.ANSWER, frame.id, wanted=wanted)
        else:
            self.send(Kind.ANSWER, frame.id, write_at(self._memory_fd, frame.payload.offset, parts), **body)

    def _send_error(self, number: int, error: BaseException) -> None:
        from embank.embed.worker.handoff import told_error

        self.send(Kind.ERROR, number, error=told_error(error))


_DOERS = {Kind.ENCODE: Worker._encode, Kind.COUNT: Worker._count, Kind.FORWARD: Worker._forward}  # noqa: SLF001


class _ParentsBudget:
    """Reserves with the parent's governor while the model is loaded. Later grants all: batches are reserved there."""

    def __init__(self, worker: Worker) -> None:
        self.answers: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.asks_parent = True
        self._worker = worker
        self._asking = threading.Lock()
        self._number = 0

    @contextlib.contextmanager
    def _reserved(self, what: str, wanted_bytes: int, least_bytes: int | None, wait_s: float) -> Iterator[Grant]:
        if not self.asks_parent:
            yield _Granted(wanted_bytes)
            return
        with self._asking:  # one question at a time, so that each answer is to the last one
            self._number += 1
            number = self._number
            self._worker.send(Kind.RESERVE, number, what=what, wanted=wanted_bytes, least=least_bytes, wait_s=wait_s)
            body = self.answers.get().body
        if "error" in body:
            from embank.embed.worker.handoff import heard_error

            raise heard_error(body["error"])
        try:
            yield _Granted(int(body["granted"]))
        finally:
            self._worker.send(Kind.RELEASE, number)

    def reserve(
        self, what: str, wanted_bytes: int, *, least_bytes: int | None = None, wait_s: float = 0.0
    ) -> AbstractContextManager[Grant]:
        return self._reserved(what, wanted_bytes, least_bytes, wait_s)


@dataclass(frozen=True, slots=True)
class _Granted:
    granted_bytes: int


class _ToStream:
    """The parent's event stream."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def publish(self, event: Event) -> None:
        from embank.embed.worker.handoff import told

        self._worker.send(Kind.EVENT, event=told(event))


class _ToParent(logging.Handler):
    """Hands warnings to the parent's log."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self._worker.send(Kind.LOG, level=record.levelno, name=record.name, message=record.getMessage()[:8192])


def _trim() -> None:
    from embank.memory.trim import trim

    trim()


if __name__ == "__main__":
    # Lanes may be in the midst of native code, which an orderly end of the interpreter does not survive everywhere.
    status = main()
    sys.stderr.flush()
    os._exit(status)

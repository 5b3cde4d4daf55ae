"""One worker as its parent sees it: the child process, the socket, the shared memory, and what was asked of it.

A channel belongs to one child, from its start to its end, and so does everything in it: an answer can't be taken for
one to another child's request. Whatever goes wrong with the child is told as `Lost`, with a cause, to everybody who
waits for an answer. Loading, replacing and retrying are not its affair.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embank.embed.worker.handoff import heard_error, is_out_of_memory
from embank.embed.worker.memfd import Closed, SharedMemory
from embank.embed.worker.wire import Frame, Frames, Garbled, Kind, Payload
from embank.memory import hygiene
from embank.system.process import child_environment

if TYPE_CHECKING:
    import numpy.typing as npt

    from embank.system.clock import Clock

Cause = Literal["crash", "killed", "memory", "hang", "garbage", "truncated", "wrong answer", "start"]
"""Why a worker was lost. `killed` is a SIGKILL that was not ours: the kernel's, mostly, when memory has run out."""

_RECEIVED_BYTES = 64 * 1024
_STDERR_TAIL_BYTES = 4096
# How long a child that has hung up may take to be gone before it is killed.
_EXIT_S = 2.0
_REFUSED_S = 0.01
# After a ping it is looked for an answer so often at least: where both processes were stopped (Ctrl-Z, a debugger),
# time has passed and nothing else.
_LEAST_LOOKS = 3
_MOST_REFUSALS = 500
_RSS_ANON = re.compile(rb"^RssAnon:\s+(\d+) kB$", re.MULTILINE)


class Lost(Exception):
    """The worker is gone, or must go; what it was asked is to be asked of another one."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause: Cause = cause
        self.detail = detail


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process; 0 where it has ended."""
    try:
        found = _RSS_ANON.search(Path(f"/proc/{pid}/status").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) * 1024 if found else 0


@dataclass(slots=True)
class _Asked:
    """A request under way. The answer's frame, or `Lost`, settles `answer`."""

    answer: Future[Frame]
    at_s: float


class Channel:
    """See the module. `ask` is thread-safe, `fail` too; the rest is for the one thread that keeps the worker."""

    def __init__(self, command: Sequence[str], generation: int, *, clock: Clock, measure: Callable[[int], int]) -> None:
        """Start the child. Raises `Lost` with cause `start` where that can't be done."""
        self.generation = generation
        self.started_at_s = clock.monotonic()
        self.ready_at_s: float | None = None
        self.used_at_s = self.started_at_s
        self.calls = 0
        self.floor_bytes: int | None = None
        self.peak_bytes = 0
        self.freed_bytes = 0
        self.ended = threading.Event()
        self.eof = False
        self._clock = clock
        self._measure = measure
        self._frames = Frames(generation)
        self._sending = threading.Lock()
        self._lock = threading.Lock()  # guards what follows
        self._asked: dict[int, _Asked] = {}
        self._last_id = 0
        self._lost: Lost | None = None
        self._pinged_at_s: float | None = None
        self._looks = 0
        self._tail = bytearray()
        self.connection, theirs = socket.socketpair()
        try:
            self.memory = SharedMemory()
            try:
                self.process = _started(command, theirs.fileno(), self.memory.fd, generation)
            except OSError as error:
                self.memory.close()
                raise Lost("start", f"the worker can't be started: {error}") from error
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()
        self.connection.setblocking(False)
        assert self.process.stderr is not None  # noqa: S101 — a pipe was asked for
        self.stderr = self.process.stderr
        os.set_blocking(self.stderr.fileno(), False)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def lost(self) -> Lost | None:
        return self._lost

    @property
    def busy(self) -> bool:
        return bool(self._asked)

    def sample(self) -> int:
        """Anonymous bytes of the child now."""
        held = self._measure(self.pid)
        self.peak_bytes = max(self.peak_bytes, held)
        return held

    # --- asking -----------------------------------------------------------------------------------------------------

    def ask(
        self,
        kind: Kind,
        parts: Sequence[bytes | memoryview],
        body: dict[str, Any],
        *,
        room_bytes: int,
        dtype: npt.DTypeLike,
    ) -> tuple[dict[str, Any], npt.NDArray[Any]]:
        """Ask, wait, and copy the answer's numbers out. Raises `Lost`, and what the engine raised.

        `room_bytes` is how long the answer may be expected to be; a longer one is asked for again.
        """
        for _ in range(3):
            frame, numbers = self._ask_once(kind, parts, room_bytes, dtype, body)
            wanted = frame.body.get("wanted")
            if wanted is None:
                return dict(frame.body), numbers
            room_bytes = int(wanted)
        raise self.fail("wrong answer", f"the answer to one request wanted more room three times, now {room_bytes}")

    def _ask_once(
        self,
        kind: Kind,
        parts: Sequence[bytes | memoryview],
        room_bytes: int,
        dtype: npt.DTypeLike,
        body: dict[str, Any],
    ) -> tuple[Frame, npt.NDArray[Any]]:
        memory = self.memory
        try:
            # The child has read a request when it writes the answer over it.
            region = memory.take(max(sum(map(len, parts)), room_bytes))
            try:
                payload = memory.write(region, parts)
                answer = self._send_request(kind, payload, {**body, "room": room_bytes})
            except BaseException:
                memory.give(region)
                raise
            try:
                frame = answer.result()
            except Exception:
                memory.give(region)
                raise
            except BaseException:
                # Interrupted while the child still writes there: the region is free when it has answered.
                answer.add_done_callback(lambda _: memory.give(region))
                raise
            try:
                return frame, memory.read(
                    region, frame.payload if frame.payload.length else Payload(region.offset), dtype
                )
            finally:
                memory.give(region)
        except Garbled as error:
            raise self.fail("garbage", str(error)) from error
        except Closed as error:
            raise self._lost or Lost("crash", "the worker ended") from error

    def _send_request(self, kind: Kind, payload: Payload, body: dict[str, Any]) -> Future[Frame]:
        answer: Future[Frame] = Future()
        with self._lock:
            if self._lost is not None:
                raise self._lost
            self._last_id += 1
            number = self._last_id
            self._asked[number] = _Asked(answer, self._clock.monotonic())
        self.send(kind, number, payload, body)
        return answer

    def send(
        self, kind: Kind, number: int = 0, payload: Payload | None = None, body: dict[str, Any] | None = None
    ) -> None:
        """Thread-safe. A child that has hung up is found out by who reads."""
        data = memoryview(Frame(kind, self.generation, number, body or {}, payload or Payload()).encoded())
        refused = 0
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while data:
                try:
                    data = data[self.connection.send(data) :]
                except OSError as error:
                    if error.errno == errno.EBADF:
                        return  # ended meanwhile by another thread, which has told all who wait
                    if not isinstance(error, BlockingIOError):
                        raise
                    # What is sent is small: a child that has no room for it has not read for long.
                    refused += 1
                    if refused > _MOST_REFUSALS:
                        self.fail("hang", "it does not read what it is sent")
                    if self._lost is not None or self.ended.wait(_REFUSED_S):
                        return

    def fail(self, cause: Cause, detail: str) -> Lost:
        """Give the child up: kill it, and tell all who wait. The first cause counts; it is returned."""
        with self._lock:
            if self._lost is None:
                self._lost = Lost(cause, detail)
            lost = self._lost
            asked, self._asked = self._asked, {}
        # Not reaped before `end`, so the id can't have been given to another process.
        self.process.kill()
        for each in asked.values():
            each.answer.set_exception(lost)
        return lost

    # --- hearing ----------------------------------------------------------------------------------------------------

    def receive(self) -> list[Frame]:
        """What has come, without waiting; answers are handed to who asked, the rest is returned. Sets `eof`."""
        others: list[Frame] = []
        while not self.eof and self._lost is None:
            try:
                data = self.connection.recv(_RECEIVED_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self.eof = True
                break
            try:
                others += [frame for frame in self._frames.feed(data) if not self._settled(frame)]
            except Garbled as error:
                self.fail("garbage", str(error))
        self._read_stderr()
        return others

    def _settled(self, frame: Frame) -> bool:
        """Whether the frame was an answer, and somebody's."""
        if frame.kind is Kind.PONG:
            self._pinged_at_s = None
            return True
        if frame.kind is not Kind.ANSWER and not (frame.kind is Kind.ERROR and frame.id):
            return False
        with self._lock:
            asked = self._asked.pop(frame.id, None)
            self.calls += 1
            self.used_at_s = self._clock.monotonic()
        if asked is None:
            raise Garbled(f"an answer came to request {frame.id}, which was not asked")
        if frame.kind is Kind.ERROR:
            told = frame.body["error"]
            if is_out_of_memory(told):
                # The child's address space is full, or in pieces: a fresh one may well have the room.
                asked.answer.set_exception(self.fail("memory", told["message"] or "an allocation failed"))
            else:
                asked.answer.set_exception(heard_error(told))
        else:
            asked.answer.set_result(frame)
        return True

    def watch(self, *, deadline_s: float, heartbeat_s: float) -> list[Frame]:
        """Ping a child that has something to do; give one up that is silent, or late with a batch."""
        self._looks += 1
        overdue = self._overdue(deadline_s, heartbeat_s)
        if overdue is None:
            return []
        # This process may itself have been stopped: then the answer has been here for long.
        others = self.receive()
        overdue = self._overdue(deadline_s, heartbeat_s)
        if overdue is not None:
            self.fail("hang", overdue)
        return others

    def _overdue(self, deadline_s: float, heartbeat_s: float) -> str | None:
        now_s = self._clock.monotonic()
        with self._lock:
            oldest_s = min((asked.at_s for asked in self._asked.values()), default=None)
        if self._pinged_at_s is None:
            if oldest_s is not None or self.ready_at_s is None:
                self._pinged_at_s = now_s
                self._looks = 0
                self.send(Kind.PING)
        elif now_s - self._pinged_at_s > heartbeat_s and self._looks >= _LEAST_LOOKS:
            return f"no sign of life for {heartbeat_s:g} s (worker.heartbeat_s)"
        if oldest_s is not None and now_s - oldest_s > deadline_s:
            return f"a batch took longer than {deadline_s:g} s (worker.deadline_s)"
        return None

    # --- ending -----------------------------------------------------------------------------------------------------

    def end(self) -> Lost | None:
        """Kill the child unless it has gone by itself, reap it, close everything; why it was lost, if it was.

        `freed_bytes` then says what it had held, the shared memory included.
        """
        self.freed_bytes = self.sample() + self.memory.held_bytes()
        if self.eof and self._lost is None:
            try:
                self.process.wait(_EXIT_S)
            except subprocess.TimeoutExpired:
                self.fail("crash", "it hung up and did not end")
        self.process.kill()
        status = self.process.wait()
        self._read_stderr()
        if self.eof and self._lost is None:
            self.fail(*self._how_it_ended(status))
        self.connection.close()
        self.stderr.close()
        self.memory.close()
        self.ended.set()
        return self._lost

    def _how_it_ended(self, status: int) -> tuple[Cause, str]:
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        said = f": {lines[-1][:500]}" if lines else ""
        if status == -signal.SIGKILL:
            return "killed", f"it was ended by SIGKILL, which was not ours{said}"
        if status < 0:
            return "crash", f"it was ended by {signal.Signals(-status).name}{said}"
        if self._frames.incomplete:
            return "truncated", f"it ended with status {status} in the midst of a message{said}"
        return "crash", f"it ended by itself with status {status}{said}"

    def _read_stderr(self) -> None:
        with contextlib.suppress(BlockingIOError, ValueError):
            while data := os.read(self.stderr.fileno(), _RECEIVED_BYTES):
                self._tail += data
                del self._tail[:-_STDERR_TAIL_BYTES]


def _started(command: Sequence[str], socket_fd: int, memory_fd: int, generation: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, str(socket_fd), str(memory_fd), str(os.getpid()), str(generation)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
        pass_fds=(socket_fd, memory_fd),
        env=child_environment(hygiene.child_environment()),
        start_new_session=True,  # Ctrl-C is the parent's
    )

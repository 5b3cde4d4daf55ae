"""A worker whose engine does what texts, or a file in the model's folder, tell it to: crash, hang, lie.

`crash: WORD` crashes each time that it is computed, `once crash: WORD` the first time only. Every other text has the
vector (characters + 1, 7, 1), before normalisation. Run like the real one, by `odd_engine` in `isolation.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embank import registry
from embank.embed.engine import Encoded, LoadRequest
from embank.embed.model import Fingerprint
from embank.embed.worker import child as worker
from embank.embed.worker.memfd import write_at
from embank.embed.worker.wire import Frame, Kind, Payload
from embank.errors import EmbeddingFailed, ModelFileError

DIMENSION = 3
KINDS = (
    "crash",
    "segfault",
    "kill",
    "stop",
    "linger",
    "memory",
    "shape",
    "value",
    "failed",
    "garbage",
    "half",
    "stranger",
    "short",
    "spoiled",
    "grow",
    "stale",
    "leave",
)


class Spied(worker.Worker):
    """Lets the engine at the socket and the memory."""

    current: Spied

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        Spied.current = self


class OddEngine:
    device = "cpu"
    max_tokens = 64
    batch_tokens = 128
    lanes = 3
    length_step: int | None = None

    def __init__(self, folder: Path, weights: str) -> None:
        self.folder = folder
        self.fingerprint = Fingerprint("odd", weights, "t", "sum", True, DIMENSION, "odd", "float32")
        self.hoard: list[bytes] = []

    def encode(self, texts: Sequence[str], kind: str) -> Encoded:
        if any(text == "many tokens" for text in texts):
            # More than anyone would expect of so short a text: three rows of 20,000 ids each.
            rows = [np.full(20_000, 5, dtype=np.int32) for _ in texts for _ in range(3)]
            return Encoded(rows, np.repeat(np.arange(len(texts), dtype=np.intp), 3), 0)
        return Encoded([np.array([len(text) + 1, *self.told(text)], dtype=np.int32) for text in texts], None, 1)

    def told(self, text: str) -> tuple[int, int]:
        """What a text tells to do, -1 for nothing; and under which number to remember it, where it is for once."""
        word = text.removeprefix("once ").partition(":")[0]
        once = zlib.crc32(text.encode()) >> 1 if text.startswith("once ") else 0
        return (KINDS.index(word) if word in KINDS else -1), once

    def due(self, once: int) -> bool:
        if once:
            try:
                (self.folder / f"done-{once}").touch(exist_ok=False)
            except FileExistsError:
                return False
        return True

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def batch_bytes(self, rows: int, width: int) -> int:
        return rows * (1000 * width + width * width)

    def forward(self, batch: Sequence[Any]) -> Any:
        vectors = np.array([[ids[0], 7.0, 1.0] for ids in batch], dtype=np.float32)
        for ids in batch:
            if len(ids) == 3 and ids[1] >= 0 and self.due(int(ids[2])):
                vectors = getattr(self, KINDS[ids[1]])(vectors)
        return vectors

    # --- what it can be told ----------------------------------------------------------------------------------------

    def crash(self, _: Any) -> None:
        sys.stderr.write("the odd engine crashes\n")
        sys.stderr.flush()
        os._exit(7)

    def segfault(self, _: Any) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)
        threading.Event().wait()  # it may reach another thread first

    def kill(self, _: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()  # it may reach another thread first

    def stop(self, _: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        threading.Event().wait()  # it may reach another thread first

    def linger(self, _: Any) -> None:
        threading.Event().wait()

    def memory(self, _: Any) -> None:
        raise MemoryError("no room for 5 GB")

    def shape(self, vectors: Any) -> Any:
        return vectors[:, :2]

    def value(self, _: Any) -> None:
        raise ValueError("the odd engine does not like this")

    def failed(self, _: Any) -> None:
        raise EmbeddingFailed("the odd engine failed", model="odd", index=4)

    def garbage(self, _: Any) -> None:
        Spied.current._connection.sendall(b"Traceback (most recent call last):\n")
        threading.Event().wait()

    def half(self, _: Any) -> None:
        frame = Frame(Kind.ANSWER, Spied.current._generation, 1, {"rows": 1}).encoded()
        Spied.current._sending.acquire()  # nothing may come behind it
        Spied.current._connection.sendall(frame[:-3])
        os._exit(0)

    def leave(self, _: Any) -> None:
        os._exit(0)

    def stranger(self, _: Any) -> None:
        Spied.current.send(Kind.ANSWER, 999_999, rows=1)
        threading.Event().wait()

    def stale(self, _: Any) -> None:
        """An answer that belongs to another child."""
        frame = Frame(Kind.ANSWER, Spied.current._generation + 1, 1, {"rows": 1}).encoded()
        Spied.current._connection.sendall(frame)
        threading.Event().wait()

    def short(self, vectors: Any) -> Any:
        """Fewer vectors than were asked for, in an answer that is otherwise whole."""
        self.lie(lambda place: place, vectors[:-1])
        return vectors

    def spoiled(self, vectors: Any) -> Any:
        """The right number of vectors, and a checksum of others."""
        self.lie(lambda place: Payload(place.offset, place.length, place.check ^ 1), vectors)
        return vectors

    def lie(self, change: Callable[[Payload], Payload], vectors: Any) -> None:
        spied = Spied.current

        def answer(frame: Frame, parts: list[Any], **body: Any) -> None:
            data = [np.ascontiguousarray(vectors, dtype=np.float32).data.cast("B")]
            spied.send(Kind.ANSWER, frame.id, change(write_at(spied._memory_fd, frame.payload.offset, data)), **body)

        spied._answer = answer  # type: ignore[method-assign]

    def grow(self, vectors: Any) -> Any:
        self.hoard.append(b"x" * (48 << 20))
        return vectors

    def used_bytes(self) -> int:
        return 1

    def close(self) -> None: ...


def load(request: LoadRequest) -> OddEngine:
    folder = request.folder
    assert folder is not None
    with (folder / "loads").open("a") as loads:
        loads.write(f"{os.getpid()}\n")
    told = (folder / "on-load").read_text() if (folder / "on-load").exists() else ""
    request.on_progress(0.25, "looking odd")
    with request.budget.reserve("load odd", 5_000_000) as grant:
        assert grant.granted_bytes == 5_000_000
    request.on_progress(0.75, "still looking odd")
    match told:
        case "crash":
            sys.stderr.write("no such instruction\n")
            sys.stderr.flush()
            os._exit(3)
        case "damaged":
            raise ModelFileError("the odd weights are damaged", path=str(folder))
        case "unknown":
            raise time_out_of_joint()
        case "memory":
            raise MemoryError
        case "linger":
            threading.Event().wait()
    return OddEngine(folder, told.removeprefix("weights ") or "w")


def time_out_of_joint() -> Exception:
    class TimeOutOfJoint(Exception): ...

    return TimeOutOfJoint(f"after {time.gmtime(0).tm_year}")


registry.ENGINES._built_in["odd"] = f"{__name__}:load"
worker.Worker = Spied  # type: ignore[misc, assignment]

if __name__ == "__main__":
    status = worker.main()
    sys.stderr.flush()
    os._exit(status)

"""A process that works, soundly or with a planted leak: `python -m benchmarks.leaking MODE SEED`.

Every operation allocates 0.1-2 MB, touches and frees it, and makes and drops some objects. On top of that, a leak of
0.1 MB per 100 operations, all of it in one of two kinds of operation, `ingest`:
The last line printed is JSON.

`python`     objects in a list that nobody empties
`native`     blocks from the C library's malloc that are never freed, as a C extension leaks
`consumer`   a registered consumer whose books grow
`hidden`     a registered consumer that grows without saying so, and gives it back when it is asked
`hoarding`   all is freed but small blocks in use between the holes, which keep the allocator from giving pages back
`healthy`    nothing
"""

from __future__ import annotations

import ctypes
import gc
import json
import random
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from embank.events.kinds import CreepSuspected, Event, LeakAttributed, MemoryJumped
from embank.memory.creep.watch import Creep

LEAK = 1_000
"""Bytes an operation: 0.1 MB per 100."""
OPERATIONS = 3_000
LEAST, MOST = 100_000, 2_000_000
PAGE = 4_096
M_MMAP_THRESHOLD = -3  # malloc.h
HOLE_EVERY = 20


@dataclass
class Hoard:
    """A consumer over a list of blocks."""

    name: str = "hoard"
    tells: bool = True
    blocks: list[bytearray] = field(default_factory=list)

    def used_bytes(self) -> int:
        """What it says that it holds."""
        return LEAK * len(self.blocks) if self.tells else 0

    def release(self, wanted_bytes: int) -> int:
        """Give so much back."""
        count = min(-(-wanted_bytes // LEAK), len(self.blocks))
        del self.blocks[len(self.blocks) - count :]
        return count * LEAK

    def rebuild_cost(self) -> float:
        """Seconds a megabyte."""
        return 1.0


class Plant:
    """The leak: `leak` loses `LEAK` bytes, in the way of the mode."""

    def __init__(self, mode: str) -> None:
        self.hoard = Hoard(tells=mode != "hidden")
        self.leak = getattr(self, {"hidden": "consumer"}.get(mode, mode))
        self._kept: list[object] = []
        self._latest: deque[int] = deque()
        self._calls = 0
        self._libc = ctypes.CDLL(None)
        self._libc.malloc.restype = self._libc.realloc.restype = self._libc.sbrk.restype = ctypes.c_void_p
        self._libc.malloc.argtypes = [ctypes.c_size_t]
        self._libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def healthy(self) -> None:
        """No leak."""

    def python(self) -> None:
        """Small objects."""
        self._kept.append([bytes(100) for _ in range(LEAK // 141)])

    def native(self) -> None:
        """A block that Python knows nothing of."""
        ctypes.memset(self._libc.malloc(LEAK), 1, LEAK)

    def consumer(self) -> None:
        """A block in the consumer."""
        self.hoard.blocks.append(bytearray(LEAK))

    def hoarding(self) -> None:
        """A hole, every so many calls.

        Each block is larger than those before it, so that none fits into a hole. All but its head is freed when others
        lie behind it, so that the hole is no part of a larger one, nor of the heap's top, which would be given back.
        """
        if not self._calls:
            self._occupy()
        self._calls += 1
        if self._calls % HOLE_EVERY:
            return
        size = HOLE_EVERY * LEAK + 64 * self._calls // HOLE_EVERY
        block = self._libc.malloc(size)
        ctypes.memset(block, 1, size)
        self._latest.append(block)
        if len(self._latest) > 8:
            self._libc.realloc(self._latest.popleft(), 64)

    def _occupy(self) -> None:
        """Leave no holes from before, which would take in what is to make new ones, and keep large blocks out of it."""
        self._libc.mallopt(M_MMAP_THRESHOLD, 64 * 1024)
        gc.collect()  # what imports left behind would make holes later
        for size in (16_384, 4_096, 1_024):
            end = self._libc.sbrk(0)
            while self._libc.malloc(size) < end - size:  # what comes from beyond it fitted nowhere else
                pass


def operate(r: random.Random) -> None:
    """What every operation does."""
    block = bytearray(r.randrange(LEAST, MOST))
    block[::PAGE] = b"x" * len(range(0, len(block), PAGE))
    words = [str(each) for each in range(r.randrange(10, 500))]
    del block, words


def main() -> None:
    """Work until the culprit is found, or to the end where there is none."""
    mode, seed = sys.argv[1], int(sys.argv[2])
    r = random.Random(seed)
    plant = Plant(mode)
    heard: list[Event] = []
    creep = Creep(consumers=lambda: (plant.hoard,), publish=heard.append)
    began = time.perf_counter()
    done, suspected, found = 0, None, None
    while done < OPERATIONS and (found is None or mode == "healthy"):
        done += 1
        kind = r.choice(("ingest", "search"))
        with creep.track(kind):
            operate(r)
            if kind == "ingest":  # every other operation leaks twice
                plant.leak()
                plant.leak()
        suspected = suspected or next((done for each in heard if isinstance(each, CreepSuspected)), None)
        found = next((each for each in heard if isinstance(each, LeakAttributed)), None)
    seconds = time.perf_counter() - began
    told: dict[str, Any] = {
        "mode": mode,
        "seed": seed,
        "operations": done,
        "suspected_at": suspected,
        "culprit": None if found is None else found.culprit,
        "name": None if found is None else found.name,
        "confidence": None if found is None else found.confidence,
        "kinds": () if found is None else found.operations,
        "evidence": () if found is None else found.evidence,
        "alarms": sum(isinstance(each, (CreepSuspected, MemoryJumped, LeakAttributed)) for each in heard),
        "seconds": seconds,
        "growth_bytes": creep.report().growth_bytes,
    }
    creep.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main()

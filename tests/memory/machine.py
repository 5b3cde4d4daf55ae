"""A machine made of numbers: a clock that stands still, and memory that is held by whom the test says."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from embank.memory.meter import Reading

MB = 1_000_000


class StillClock:
    """Time passes only when the test says so."""

    def __init__(self) -> None:
        self.time_s = 1_000.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.time_s

    def monotonic(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds


@dataclass
class Machine:
    """A meter over a number; caches and work add to it and take from it."""

    held_bytes: int = 0
    cgroup_bytes: int | None = None
    cgroup_limit_bytes: int | None = None
    reads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> Reading:
        self.reads += 1
        return Reading(
            tree_bytes=self.held_bytes,
            cgroup_bytes=self.cgroup_bytes,
            cgroup_limit_bytes=self.cgroup_limit_bytes,
            processes=1,
        )

    def hold(self, count: int) -> None:
        with self.lock:
            self.held_bytes += count


@dataclass
class Cache:
    """An honest consumer: what it holds is on the machine, what it releases is gone from there."""

    machine: Machine
    name: str
    bytes: int = 0
    cost: float = 1.0
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine.hold(self.bytes)

    def used_bytes(self) -> int:
        return self.bytes

    def release(self, wanted_bytes: int) -> int:
        self.asked.append(wanted_bytes)
        freed = min(wanted_bytes, self.bytes)
        self.bytes -= freed
        self.machine.hold(-freed)
        return freed

    def rebuild_cost(self) -> float:
        return self.cost

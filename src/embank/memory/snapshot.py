"""Memory laid against the budget: one reading (`Gauge`), and the whole state of the governor (`MemorySnapshot`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

from embank.memory.ladder import Rung
from embank.memory.meter import Reading, Source
from embank.memory.pressure import Stall

KERNEL_BYTES = 1_000_000
"""Left free below a control group's limit: page tables for the memory that is about to be touched, and what the group's
counters lag behind. A process that was promised the last byte was killed with 27,000 to spare."""

Constraint = Literal["budget", "cgroup", "managed"]
"""What leaves the least room: the process tree against the budget, or the control group against its limit. `managed`:
the kernel can't be asked for memory as it is now, and what consumers say is laid against the budget."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """A reading against the budget. `real_bytes` is the budget less the room that the tighter constraint leaves."""

    reading: Reading
    budget_bytes: int
    floor_bytes: int
    real_bytes: int
    constraint: Constraint

    @classmethod
    def of(
        cls, reading: Reading, *, budget_bytes: int, baseline_bytes: int, floor_bytes: int, managed_bytes: int
    ) -> Self:
        """`managed_bytes` counts only where the reading is a mere peak, which never falls and would refuse for ever."""
        constraint: Constraint = "budget"
        real_bytes = max(reading.tree_bytes - baseline_bytes, 0)
        if reading.source == "peak":
            constraint, real_bytes = "managed", managed_bytes
        if reading.cgroup_limit_bytes is not None and reading.cgroup_bytes is not None:
            room_bytes = reading.cgroup_limit_bytes - reading.cgroup_bytes - KERNEL_BYTES
            if room_bytes < budget_bytes - real_bytes:
                constraint, real_bytes = "cgroup", budget_bytes - room_bytes
        return cls(reading, budget_bytes, floor_bytes, real_bytes, constraint)

    @property
    def source(self) -> Source:
        return self.reading.source

    @property
    def room_bytes(self) -> int:
        """What is left before reservations; negative above the budget."""
        return self.budget_bytes - self.real_bytes

    @property
    def pressure(self) -> float:
        """The used part of the room above the floor: 0 at the floor (or below), 1 at the budget, more above it."""
        whole_bytes = self.budget_bytes - self.floor_bytes
        if whole_bytes <= 0:  # nothing was ever left above the floor
            return max(self.real_bytes / self.budget_bytes, 1.0)
        return max((self.real_bytes - self.floor_bytes) / whole_bytes, 0.0)

    def bytes_above(self, pressure: float) -> int:
        """How much must go for the pressure to fall to this; at least 1."""
        mark_bytes = self.floor_bytes + pressure * max(self.budget_bytes - self.floor_bytes, 0)
        return max(round(self.real_bytes - mark_bytes), 1)


@dataclass(frozen=True, slots=True)
class TakenAction:
    """Something that was done for memory: when (seconds since the epoch), what, why, and what it freed, as measured.

    `rung` is empty where a reservation or the kernel's word asked for it, and not the ladder. Unless it is `done`, it
    was not waited for any longer.
    """

    at: float
    rung: str
    action: str
    why: str
    freed_bytes: int
    seconds: float
    done: bool = True


@dataclass(frozen=True, slots=True)
class RungState:
    """A rung's marks, and whether it is active."""

    name: str
    enter: float
    leave: float
    active: bool


@dataclass(frozen=True, slots=True)
class MonitorState:
    """The sampling thread: samples so far, the pause until the next, and what they cost in processor time.

    `cpu_pct` is of one processor over the time since it began; None before there is any.
    """

    running: bool
    samples: int
    interval_s: float
    cpu_s: float
    cpu_pct: float | None


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """Both ledgers, the rung and the counters, at one moment. Bytes unless said otherwise.

    `managed_bytes` is the sum over `consumers`; `unmanaged_growth_bytes` is real - managed - floor, None until the
    floor was taken (`floor_bytes` is 0 until then). `peak_bytes` is the highest `real_bytes` in any reading. `rung` is
    None where pressure is low; `rungs` are all there are, lowest first. `processes` counts the tree, `process_bytes`
    names each (id, bytes).

    `limited` is false where `memory.enabled` is off and nothing is held to the budget. `would` names what the ladder
    would have done at its last check, in a dry run. `last_actions` are the latest, oldest first. `trim_support` says
    why the allocator can't be trimmed here, empty where it can. `stall` is the kernel's pressure information, None
    where it tells none; `monitor` is None where no thread samples.

    Counters: reservations `granted` and `refused`, bulk ones `paused` so far, and those that wait now; `actions` of the
    ladder, and how many of them freed nothing; `freed_bytes` measured after consumers' releases; `trims`; and how often
    consumers and actions raised (`consumers_failed`), took too long (`consumers_slow`) or claimed what nobody could
    find (`consumers_false`).
    """

    budget_bytes: int
    real_bytes: int
    managed_bytes: int
    reserved_bytes: int
    available_bytes: int
    floor_bytes: int
    unmanaged_growth_bytes: int | None
    baseline_bytes: int
    peak_bytes: int
    pressure: float
    rung: str | None
    rungs: tuple[RungState, ...]
    constraint: Constraint
    consumers: tuple[tuple[str, int], ...]
    processes: int
    process_bytes: tuple[tuple[int, int], ...]
    tree_bytes: int
    cgroup_bytes: int | None
    cgroup_limit_bytes: int | None
    source: Source
    limited: bool
    dry_run: bool
    would: tuple[str, ...]
    last_actions: tuple[TakenAction, ...]
    trim_support: str
    stall: Stall | None
    monitor: MonitorState | None
    granted: int
    refused: int
    paused: int
    waiting: int
    actions: int
    actions_futile: int
    freed_bytes: int
    trims: int
    consumers_failed: int
    consumers_slow: int
    consumers_false: int

    @classmethod
    def of(
        cls,
        gauge: Gauge,
        *,
        consumers: tuple[tuple[str, int], ...],
        reserved_bytes: int,
        settled: bool,
        rungs: tuple[Rung, ...],
        active: tuple[Rung, ...],
        **rest: Any,
    ) -> Self:
        """Fill in what follows from the gauge and the consumers; `rest` names the remaining fields."""
        managed_bytes = sum(count for _, count in consumers)
        growth_bytes = gauge.real_bytes - managed_bytes - gauge.floor_bytes
        return cls(
            budget_bytes=gauge.budget_bytes,
            real_bytes=gauge.real_bytes,
            managed_bytes=managed_bytes,
            reserved_bytes=reserved_bytes,
            available_bytes=max(gauge.room_bytes - reserved_bytes, 0),
            floor_bytes=gauge.floor_bytes,
            unmanaged_growth_bytes=growth_bytes if settled else None,
            pressure=gauge.pressure,
            rung=active[-1].name if active else None,
            rungs=tuple(RungState(rung.name, rung.enter, rung.leave, rung in active) for rung in rungs),
            constraint=gauge.constraint,
            consumers=consumers,
            processes=gauge.reading.processes,
            process_bytes=gauge.reading.by_process,
            tree_bytes=gauge.reading.tree_bytes,
            cgroup_bytes=gauge.reading.cgroup_bytes,
            cgroup_limit_bytes=gauge.reading.cgroup_limit_bytes,
            source=gauge.source,
            **rest,
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values; `consumers` becomes an object, where bytes of the same name are summed."""
        consumers: dict[str, int] = {}
        for name, count in self.consumers:
            consumers[name] = consumers.get(name, 0) + count
        fields = dataclasses.asdict(self)
        processes = {str(pid): count for pid, count in self.process_bytes}
        return {**fields, "consumers": consumers, "process_bytes": processes, "would": list(self.would)}

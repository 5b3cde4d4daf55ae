"""Measuring: memory as the meter reads it, laid against the budget, the floor and the baseline.

Covers the budget itself (which are refused, which are cut), the floor, the peak, and what stands for real memory where
the kernel can't be asked. Does not act on what it finds, and calls no consumer but when it is told to (`look`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from embank.errors import BudgetBelowFloor, InvalidInput
from embank.memory.meter import Meter
from embank.memory.snapshot import KERNEL_BYTES, Gauge

LEAST_ROOM_BYTES = 8_000_000
"""What must at least be left above the floor for any work: a short batch, and the allocator's slack around it."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A budget that was accepted: `asked_bytes` cut to what the control group may hold."""

    asked_bytes: int
    budget_bytes: int

    @property
    def capped(self) -> bool:
        return self.budget_bytes < self.asked_bytes


class Scales:
    """See the module. Thread-safe. `managed_bytes` asks consumers what they hold."""

    def __init__(self, meter: Meter, *, baseline_bytes: int, managed_bytes: Callable[[], int]) -> None:
        self.meter = meter
        self.baseline_bytes = baseline_bytes
        self.budget_bytes = 0
        self.floor_bytes: int | None = None
        self.peak_bytes = 0
        self._managed_bytes = managed_bytes
        self._blind_bytes = 0
        """What consumers said last; stands for real memory where the meter is blind."""
        self._peak = threading.Lock()

    def look(self) -> None:
        """Where the meter is blind, ask consumers what they hold; to be called with nothing locked."""
        if self.gauge().source == "peak":
            self._blind_bytes = self._managed_bytes()

    def gauge(self) -> Gauge:
        """Read memory and lay it against the budget. Calls no consumer."""
        gauge = Gauge.of(
            self.meter.read(),
            budget_bytes=self.budget_bytes,
            baseline_bytes=self.baseline_bytes,
            floor_bytes=self.floor_bytes or 0,
            managed_bytes=self._blind_bytes,
        )
        with self._peak:
            self.peak_bytes = max(self.peak_bytes, gauge.real_bytes)
        return gauge

    def real_bytes(self) -> int:
        """What is held now, also where the meter is blind."""
        self.look()
        return self.gauge().real_bytes

    def settle(self) -> int:
        """Take the floor, and return it: what is held that no consumer accounts for."""
        managed_bytes = self._managed_bytes()
        self.floor_bytes = max(self.real_bytes() - managed_bytes, 0)
        return self.floor_bytes

    def unreleasable_bytes(self) -> int:
        """The floor, or, until it was taken, what is held now that no consumer accounts for."""
        if self.floor_bytes is not None:
            return self.floor_bytes
        reading = self.meter.read()
        if reading.source == "peak":
            return 0
        return max(reading.tree_bytes - self.baseline_bytes - self._managed_bytes(), 0)

    def renew(self) -> None:
        """In the child after a fork: a lock may be another thread's that is not there."""
        self._peak = threading.Lock()

    def weigh(self, budget_bytes: int, *, largest_work_bytes: int) -> Weighed:
        """Whether this budget can be; what exceeds the control group's limit is cut off.

        Raises `InvalidInput` for none at all, and `BudgetBelowFloor` where what can't be released is as much or more;
        both with the least that would work, for which `largest_work_bytes` is what some work is known to need.
        """
        floor_bytes = self.unreleasable_bytes()
        least_bytes = floor_bytes + max(LEAST_ROOM_BYTES, largest_work_bytes)
        fields = {"budget_bytes": budget_bytes, "floor_bytes": floor_bytes, "least_bytes": least_bytes}
        if budget_bytes < 1:
            raise InvalidInput(
                f"a memory budget must be positive, not {budget_bytes}: set memory.budget to {told(least_bytes)} "
                f"or more",
                **fields,
            )
        if budget_bytes <= floor_bytes:
            raise BudgetBelowFloor(
                f"a memory budget of {told(budget_bytes)} can't work: {told(floor_bytes)} are held already that nobody "
                f"can release (the interpreter, libraries, whatever is no cache and no model); set memory.budget to "
                f"{told(least_bytes)} or more",
                **fields,
            )
        limit_bytes = self.meter.read().cgroup_limit_bytes
        if limit_bytes is None or budget_bytes <= limit_bytes:
            return Weighed(budget_bytes, budget_bytes)
        return Weighed(budget_bytes, max(limit_bytes - KERNEL_BYTES, 1))


def told(count: int) -> str:
    """Bytes in words, rounded up, so that a least amount is not told as less."""
    return f"{-(-count // 100_000) / 10:.1f} MB"

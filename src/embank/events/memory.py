"""What the memory governor and the recovery do."""

from __future__ import annotations

from dataclasses import dataclass

from embank.events.event import Event


@dataclass(frozen=True, slots=True)
class MemoryReleased(Event):
    """A consumer was asked for bytes and gave some. `why`: the rung, or what the bytes were needed for."""

    consumer: str
    wanted_bytes: int
    freed_bytes: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class RungEntered(Event):
    """Pressure rose to a rung of the ladder. `pressure` is the used part of the room above the floor."""

    rung: str
    pressure: float
    real_bytes: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class RungLeft(Event):
    """Pressure fell below the rung's way down."""

    rung: str
    pressure: float
    real_bytes: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class ActionTaken(Event):
    """The ladder acted, since `pressure` was so high; `freed_bytes` was measured after it, not promised by it.

    Unless it is `done`, it took too long to be waited for and goes on by itself.
    """

    rung: str
    action: str
    freed_bytes: int
    seconds: float
    pressure: float = 0.0
    done: bool = True


@dataclass(frozen=True, slots=True)
class ActionSkipped(Event):
    """The ladder did nothing where it could have; told once until the rung is left.

    `reason`: cool-down, fruitless (the last time freed nothing), waiting (the rung has not stood for long enough),
    under way (the last time has not ended), dry run; and falling, for a whole rung (`action` is empty), which was not
    entered since pressure falls by itself.
    """

    rung: str
    action: str
    reason: str
    pressure: float


@dataclass(frozen=True, slots=True)
class BulkWorkPaused(Event):
    """Bulk work waits for the rung to be left; told once until then."""

    what: str
    rung: str


@dataclass(frozen=True, slots=True)
class PressureReported(Event):
    """The kernel, or the service manager in its name, said that memory is short; what consumers gave back for that."""

    source: str
    before_bytes: int
    freed_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BudgetChanged(Event):
    """The budget is another one from now on."""

    before_bytes: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class BudgetCapped(Event):
    """The budget asked for is more than the control group may hold, and was cut to that."""

    asked_bytes: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class BudgetTooSmall(Event):
    """What can't be released is more than the budget: nothing will be granted. With `least_bytes` it would work."""

    budget_bytes: int
    floor_bytes: int
    least_bytes: int


@dataclass(frozen=True, slots=True)
class MemorySampled(Event):
    """Memory at one moment, in bytes, from the monitor.

    `processes` are (process id, bytes) of the tree; `consumers` (name, bytes). `unmanaged_growth_bytes` is None until
    the floor was taken, `stalled_pct` (how much of the last 10 s some task of the group or machine waited for memory)
    where the kernel does not tell. `cost_s` is the processor time that this sample took, the ladder's work included.
    """

    real_bytes: int
    tree_bytes: int
    managed_bytes: int
    unmanaged_growth_bytes: int | None
    reserved_bytes: int
    budget_bytes: int
    pressure: float
    rung: str | None
    processes: tuple[tuple[int, int], ...]
    consumers: tuple[tuple[str, int], ...]
    stalled_pct: float | None
    cost_s: float


@dataclass(frozen=True, slots=True)
class MemoryRecovered(Event):
    """A clean-up ended. `trigger`: calls, growth, idle, unload or hand. Bytes are of the process tree, as measured.

    `ok` unless a step of it raised; then `error` says which. Nothing to do is no failure.
    """

    trigger: str
    before_bytes: int
    after_bytes: int
    seconds: float
    ok: bool = True
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReservationRefused(Event):
    """Work was not begun, since its bytes could not be found."""

    what: str
    wanted_bytes: int
    available_bytes: int

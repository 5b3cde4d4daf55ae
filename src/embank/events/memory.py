"""What the memory governor and the recovery do."""

from __future__ import annotations

from dataclasses import dataclass

from embank.events.event import Event


@dataclass(frozen=True, slots=True)
class MemoryReleased(Event):
    """A consumer was asked for bytes and gave some."""

    consumer: str
    wanted_bytes: int
    freed_bytes: int


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
    """The ladder acted; `freed_bytes` was measured after it, not promised by it."""

    rung: str
    action: str
    freed_bytes: int
    seconds: float


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

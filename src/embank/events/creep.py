"""What the watch over creeping memory finds: creep, jumps, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass

from embank.events.event import Event


@dataclass(frozen=True, slots=True)
class CreepSuspected(Event):
    """Memory rises steadily with the operations. `reason`: trend, contract or managed (by the consumers' own books).

    `growth_bytes` over the last `operations`; `kinds` are the operations that it goes with, several where they can't
    be told apart.
    """

    reason: str
    growth_bytes: int
    operations: int
    bytes_per_1000: int
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryJumped(Event):
    """Memory rose by more than is allowed within a few operations; every consumer was then asked at once.

    `operation` ended when it was seen. `freed_bytes` was measured after the recovery; `error` says what went wrong in
    it, empty where nothing did.
    """

    operation: str
    rise_bytes: int
    operations: int
    freed_bytes: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class LeakAttributed(Event):
    """Growth was traced to its culprit by experiment: hoarding, consumer, python, native or unclear.

    `name` is the consumer, or the line of code that holds most; empty else. `confidence` is from 0 to 1.
    """

    culprit: str
    name: str
    bytes: int
    confidence: float
    operations: tuple[str, ...]
    evidence: tuple[str, ...]

"""What a holder of bytes must be able to say and do, so that the governor can arbitrate."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Consumer(Protocol):
    """A holder of bytes: a cache, an index, a writer's heap, a model."""

    @property
    def name(self) -> str: ...

    def used_bytes(self) -> int:
        """What it holds now. Cheap; called at every sample; never raises."""
        ...

    def release(self, wanted_bytes: int) -> int:
        """Give back at least `wanted_bytes` where possible; return the bytes freed. Never raises."""
        ...

    def rebuild_cost(self) -> float:
        """Seconds it would take to earn back one megabyte. The cheapest are released first."""
        ...

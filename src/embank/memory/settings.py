"""Settings of the memory room."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from embank.config import Section, Size
from embank.memory.ladder import Rung

Share = Annotated[float, Field(gt=0, le=1)]
"""A part of the room between floor and budget."""


class Settings(Section):
    """How much may be held, and when the governor acts. Shares are of the room between the floor and the budget."""

    budget: Size = Size("60%")
    """Memory that Embank may hold: 512MB, or a percentage of the tightest cgroup limit or else of the machine."""

    release_at: Share = 0.70
    """From here on, consumers are asked to release bytes, the cheapest to rebuild first."""

    release_until: Share = 0.60
    """Below here they are left alone again."""

    trim_at: Share = 0.75
    """From here on, garbage is collected and the allocator hands free pages back."""

    trim_until: Share = 0.68
    """Below here that ends."""

    shrink_at: Share = 0.80
    """From here on, bulk work (ingest, re-embedding) is granted less at a time, and waits; queries go on."""

    shrink_until: Share = 0.70
    """Below here it gets what it asks for again."""

    unload_at: Share = 0.85
    """From here on, models that nobody used for a minute are unloaded, and what can be reloaded in milliseconds."""

    unload_until: Share = 0.72
    """Below here that ends."""

    recycle_at: Share = 0.92
    """From here on, the processes that hold models are replaced by fresh ones."""

    recycle_until: Share = 0.75
    """Below here that ends."""

    refuse_at: Share = 0.95
    """From here on, new work is refused."""

    refuse_until: Share = 0.80
    """Below here it is accepted again."""

    restart_after_s: float = Field(default=60.0, ge=0)
    """New work must have been refused for so long without a break before a restart is asked for, where anybody can."""

    cooldown_s: float = Field(default=5.0, ge=0)
    """The ladder takes the same action at most once in so many seconds."""

    check_interval_s: float = Field(default=0.2, ge=0)
    """The ladder looks at memory at most once in so many seconds, however often it is asked to."""

    trim_interval_s: float = Field(default=1.0, ge=0)
    """The ladder trims the allocator at most once in so many seconds, since that can stall other threads for 50 ms.
    Work that waits for bytes has it trimmed at once, where that pays."""

    trim_least: Size = Size("4MB")
    """A trim must promise at least so much (bytes, or a percentage of the budget)."""

    slow_release_s: float = Field(default=1.0, gt=0)
    """A consumer that takes longer to release is logged and counted; others wait for it no longer than this."""

    shrink_to: Share = 0.25
    """What bulk work is granted while the ladder shrinks it, as a part of what it asks for (at least what it needs)."""

    bulk_patience_s: float = Field(default=5.0, ge=0)
    """Bulk work that waited for so long is served in its turn, as if it were interactive, whatever else waits."""

    kernel_release: Share = 0.25
    """When the kernel reports pressure, consumers are asked for this part of what they hold."""

    monitor: bool = True
    """Whether memory is sampled in a thread of its own, which also moves the ladder. Without it, work itself does."""

    sample_s: float = Field(default=1.0, gt=0)
    """Memory is sampled once in so many seconds."""

    sample_adaptive: bool = True
    """Whether that is more often close to a rung, and less often when it is calm."""

    sample_fastest_s: float = Field(default=0.1, gt=0)
    """No more often than once in so many seconds."""

    sample_slowest_s: float = Field(default=5.0, gt=0)
    """At least once in so many seconds."""

    pressure_watch: bool = True
    """Whether the service manager's word of pressure is listened to (`MEMORY_PRESSURE_WATCH`), where it offers any."""

    enabled: bool = True
    """Whether there is a budget at all: without, everything is granted and nobody is asked to release anything."""

    dry_run: bool = False
    """Whether the ladder only says what it would do. Reservations stay within the budget all the same."""

    def rungs(self) -> tuple[Rung, ...]:
        """The ladder's rungs, lowest first."""
        return (
            Rung("release", enter=self.release_at, leave=self.release_until),
            Rung("trim", enter=self.trim_at, leave=self.trim_until),
            Rung("shrink", enter=self.shrink_at, leave=self.shrink_until, shrinks=True),
            Rung("unload", enter=self.unload_at, leave=self.unload_until),
            Rung("recycle", enter=self.recycle_at, leave=self.recycle_until),
            Rung("refuse", enter=self.refuse_at, leave=self.refuse_until, refuses=True),
        )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        rungs = self.rungs()
        for rung in rungs:
            if rung.leave >= rung.enter:
                raise ValueError(
                    f"{rung.name}_until ({rung.leave:g}) must be below {rung.name}_at ({rung.enter:g}), so that memory "
                    f"near the mark does not make the rung flicker"
                )
        for lower, upper in pairwise(rungs):
            if lower.enter > upper.enter or lower.leave > upper.leave:
                raise ValueError(
                    f"{upper.name}_at and {upper.name}_until must not be below {lower.name}_at and {lower.name}_until"
                )
        return self

    @model_validator(mode="after")
    def _paced(self) -> Self:
        if not self.sample_fastest_s <= self.sample_s <= self.sample_slowest_s:
            raise ValueError(
                f"sample_s ({self.sample_s:g}) must lie between sample_fastest_s ({self.sample_fastest_s:g}) and "
                f"sample_slowest_s ({self.sample_slowest_s:g})"
            )
        return self

"""Settings of the watch over creeping memory."""

from __future__ import annotations

from pydantic import Field

from embank.config import Section, Size


class Settings(Section):
    """How closely memory is watched over operations, and from which growth on something is said and done."""

    enabled: bool = True
    """Whether operations are counted and memory is read at their ends."""

    every_operations: int = Field(default=5, ge=1)
    """Memory is read at the end of every so-many-th operation."""

    warmup_operations: int = Field(default=100, ge=0)
    """Memory that the first so many operations of a kind take is not counted: libraries, models, arenas, buffers.
    A rare kind has warmed up once ten times as many of all kinds have ended."""

    least_points: int = Field(default=64, ge=16)
    """Below so many points (each the least of two readings) there is not enough data for a trend."""

    most_points: int = Field(default=256, ge=32)
    """So many points are kept of the latest operations, and again so many of all, the older the sparser."""

    most_kinds: int = Field(default=16, ge=1)
    """Kinds of operations told apart; further ones are counted together as `other`."""

    least_growth: Size = Size("1MB")
    """A steady rise is no creep before it amounts to so much."""

    confidence: float = Field(default=0.999, gt=0.5, lt=1)
    """How sure a trend must be: one-sided, of each of its tests."""

    most_per_100: Size = Size("1MB")
    """The contract: growth over a hundred operations that is tolerated."""

    most_per_1000: Size = Size("5MB")
    """The contract: growth over a thousand operations that is tolerated."""

    jump: Size = Size("5MB")
    """A rise above this within `jump_operations` has every consumer asked for memory at once."""

    jump_operations: int = Field(default=10, ge=1)
    """Within how many operations a rise is a jump."""

    attribute: bool = True
    """Whether the culprit of suspected creep is sought by experiment: a trim, consumers asked, allocations traced."""

    trace: bool = True
    """Whether that may trace Python's allocations, which slows Python code to half while it lasts."""

    trace_operations: int = Field(default=5_000, ge=100)
    """Allocations are traced over at most so many operations."""

    trace_s: float = Field(default=60.0, gt=0)
    """Allocations are traced for at most so many seconds."""

    trace_memory: Size = Size("32MB")
    """Tracing ends when its own books take so much."""

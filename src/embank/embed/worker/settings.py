"""The `worker` section of the settings: the model in a process of its own."""

from __future__ import annotations

from pydantic import Field

from embank.config import Section, Size


class Settings(Section):
    """When a worker (`embed.isolation = "process"`) is replaced, and how long it is waited for."""

    recycle_growth: Size = Size("64MB")
    """A worker that holds so much more than it did when warm is replaced: bytes, or a percentage of what it held."""

    recycle_age_s: float | None = Field(default=86_400.0, gt=0)
    """A worker older than this is replaced; empty: never."""

    recycle_idle_s: float | None = Field(default=300.0, gt=0)
    """A worker that nobody asked for so long is ended, and the next request starts one; empty: never."""

    recycle_calls: int | None = Field(default=None, ge=1)
    """A worker is replaced after so many requests; empty: never."""

    deadline_s: float = Field(default=120.0, gt=0)
    """A batch that takes longer is given up with its worker, and computed by another."""

    heartbeat_s: float = Field(default=15.0, gt=0)
    """A busy worker that gives no sign of life for so long is ended."""

    retries: int = Field(default=2, ge=0, le=20)
    """How often a batch is computed again by a fresh worker before it fails."""

    start_timeout_s: float = Field(default=600.0, gt=0)
    """A worker that loads its model without getting any further for so long is ended."""

"""Settings of memory recovery."""

from __future__ import annotations

from pydantic import Field

from embank.config import Section, Size


class Settings(Section):
    """When what embedding left behind is cleaned up: collected, and handed back to the operating system."""

    enabled: bool = True
    """Whether it is cleaned up by itself; by hand it always can be."""

    every_calls: int = Field(default=10, ge=1)
    """A clean-up after so many embedding calls."""

    growth: Size = Size("50MB")
    """A clean-up as soon as memory has grown by so much above its floor, beside what consumers say they hold: bytes, or
    a percentage of the tightest cgroup limit or else of the machine."""

    adaptive: bool = True
    """Whether clean-ups that bring nothing become rarer (up to 64 times), and growth makes them more frequent."""

    least_interval_s: float = Field(default=1.0, ge=0)
    """At least so many seconds from one clean-up to the next."""

    idle_s: float | None = Field(default=5.0, ge=0)
    """A clean-up so long after the last call; empty: none for that."""

    patience_s: float = Field(default=0.5, ge=0)
    """How long a clean-up that is due waits for a moment in which no call is under way."""

    check_interval_s: float = Field(default=0.02, ge=0)
    """Before a call, memory is read at most once in so many seconds."""

    trim_least: Size = Size("4MB")
    """The allocator must have so much to hand back for it to be asked to: bytes, or a percentage as for `growth`."""

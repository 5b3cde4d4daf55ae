"""What every kind of event is: frozen facts with the time at which they happened."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all kinds. `at` is wall time in seconds since the epoch: now, unless the publisher's clock says so."""

    at: float = field(default_factory=time.time, kw_only=True)

    @property
    def kind(self) -> str:
        """The class's name."""
        return type(self).__name__

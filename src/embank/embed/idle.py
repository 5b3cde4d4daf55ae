"""Letting models go that nobody used for a while: one thread for all of a loader, asleep until the next is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from embank.system.background import Background

if TYPE_CHECKING:
    from embank.embed.resident import ResidentModel
    from embank.system.clock import Clock


class IdleWatch:
    """Asks each of `models` to rest when its time has come. Thread-safe; the thread starts with the first load."""

    def __init__(
        self, models: Callable[[], Iterable[ResidentModel]], *, keep_alive_s: float | None, clock: Clock
    ) -> None:
        self._models = models
        self._keep_alive_s = keep_alive_s
        self._thread = Background("embank-idle", self._turn, clock=clock)

    def wake(self) -> None:
        """A model was loaded: look when it will have to go."""
        self._thread.wake()

    def close(self) -> None:
        """End the thread."""
        self._thread.close()

    def _turn(self) -> float | None:
        due = [model.rest(self._keep_alive_s) for model in self._models()]
        return min((each for each in due if each is not None), default=None)

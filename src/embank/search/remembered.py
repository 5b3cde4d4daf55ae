"""A state of a collection that is asked the same again and again: by every fusion that is tried on one question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from embank.store.snapshot import Snapshot


class _Remembered:
    """Asks the snapshot once, and answers out of memory when asked the same again. For one question."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._answers: dict[tuple[object, ...], Any] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._snapshot, name)
        return self._asking(name, found) if callable(found) else found

    def _asking(self, name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*given: Any, **named: Any) -> Any:
            values = (*given, *named.items())
            key = (name, *(each.tobytes() if isinstance(each, np.ndarray) else each for each in values))
            if key not in self._answers:
                self._answers[key] = ask(*given, **named)
            return self._answers[key]

        return answer


def remembering(snapshot: Snapshot) -> Snapshot:
    """The same snapshot, for as long as it lasts; whoever asks must not change what it answers."""
    return cast("Snapshot", _Remembered(snapshot))

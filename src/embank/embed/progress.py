"""How far the loading of a model is, told to whoever wants to know: never backwards, and 1.0 when it is ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embank.system.log import get_logger

_log = get_logger(__name__)

Listener = Callable[[str, float, str], object]
"""Told the model's name, the fraction done, 0 to 1, and the step in words; in the thread that loads."""


class Progress:
    """The progress of one model's loads. Thread-safe. A listener that raises is logged once and told nothing more."""

    def __init__(self, model: str, *listeners: Listener | None) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = tuple(each for each in listeners if each is not None)
        self.fraction = 0.0
        self.step = ""

    def begin(self) -> None:
        """A load starts: from here it goes up."""
        self.fraction, self.step = 0.0, ""

    def tell(self, fraction: float, step: str) -> None:
        """The load came so far; never raises."""
        with self._lock:
            self.fraction = min(max(self.fraction, fraction), 1.0)
            self.step = step
            listeners = self._listeners
        for listener in listeners:
            self._tell(listener, self.fraction, step)

    @contextmanager
    def heard_by(self, listener: Listener | None) -> Iterator[None]:
        """Tell `listener`, too, until the block ends; at once how far a load is that goes on."""
        if listener is None:
            yield
            return
        with self._lock:
            self._listeners = (*self._listeners, listener)
            fraction, step = self.fraction, self.step
        if step:
            self._tell(listener, fraction, step)
        try:
            yield
        finally:
            self._forget(listener)

    def _tell(self, listener: Listener, fraction: float, step: str) -> None:
        try:
            listener(self._model, fraction, step)
        except Exception:  # noqa: BLE001 -- foreign code may raise anything
            _log.exception("a callback for the loading of %s failed; it is told nothing more", self._model)
            self._forget(listener)

    def _forget(self, listener: Listener) -> None:
        with self._lock:
            kept = list(self._listeners)
            if listener in kept:
                kept.remove(listener)
            self._listeners = tuple(kept)

"""That a command waits for its model, told on standard error once that takes long: a live line, or one plain line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embank.cli.output import console, one_line, print_line
from embank.cli.progress import PICTURES_PER_SECOND, Doing
from embank.events.kinds import Event, ModelLoaded, ModelLoadFailed, ModelLoadProgressed, ModelLoadStarted

if TYPE_CHECKING:
    from embank.events.stream import Stream

LOADS = (ModelLoadStarted, ModelLoadProgressed, ModelLoaded, ModelLoadFailed)
"""Events that tell how far the loading of a model is."""

SLOW_S = 0.5
"""A load that takes no longer is not worth a word."""


@contextmanager
def telling_loads(events: Stream, *, quiet: bool = False, slow_s: float = SLOW_S) -> Iterator[None]:
    """Tell of models that are being loaded until the block ends. `quiet` tells nothing.

    Not beside another live line: two on one terminal overwrite each other.
    """
    if quiet:
        yield
        return
    loads = _Loads(slow_s)
    try:
        with events.subscribe(loads.hear, kinds=LOADS):
            yield
    finally:
        loads.end()


class _Loads:
    """What is being loaded. Hears in the stream's thread; the line appears in a timer's."""

    def __init__(self, slow_s: float) -> None:
        self._slow_s = slow_s
        self._lock = threading.Lock()
        self._doing: dict[str, Doing] = {}
        self._timer: threading.Timer | None = None
        self._live: Any = None
        self._ended = False

    def hear(self, event: Event) -> None:
        match event:
            case ModelLoadStarted():
                self._begin(event.model)
            case ModelLoadProgressed():
                doing = self._doing.get(event.model)
                if doing is not None:
                    doing.update(event.fraction, event.step)
            case ModelLoaded() | ModelLoadFailed():
                self._done(event.model)
            case _:
                pass

    def end(self) -> None:
        """Take the line away, and show none any more."""
        with self._lock:
            self._ended = True
            self._doing = {}
            self._clear()

    def _begin(self, model: str) -> None:
        with self._lock:
            if self._ended:
                return
            self._doing[model] = Doing(f"loading {one_line(model, 40)}")
            if self._timer is None:
                self._timer = threading.Timer(self._slow_s, self._show)
                self._timer.daemon = True
                self._timer.start()

    def _done(self, model: str) -> None:
        with self._lock:
            self._doing.pop(model, None)
            if not self._doing:
                self._clear()

    def _show(self) -> None:
        with self._lock:
            doing = next(iter(self._doing.values()), None)
            if doing is None or self._ended:
                return
            if not sys.stderr.isatty():
                print_line(doing.line())
                return
            from rich.live import Live

            self._live = Live(
                get_renderable=lambda: self._picture(doing),
                console=console(sys.stderr),
                refresh_per_second=PICTURES_PER_SECOND,
                transient=True,
            )
            self._live.start()

    def _picture(self, first: Doing) -> Any:
        return next(iter(list(self._doing.values())), first).picture()

    def _clear(self) -> None:
        timer, self._timer = self._timer, None
        live, self._live = self._live, None
        if timer is not None:
            timer.cancel()
        if live is not None:
            live.stop()

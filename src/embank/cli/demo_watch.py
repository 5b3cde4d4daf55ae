"""What `embank demo` sees of itself while it runs: the peak, and where each megabyte is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from embank.cli.output import add_row, bar, duration, size, table
from embank.cli.progress import Progress
from embank.events.kinds import (
    Event,
    ModelConversionStarted,
    ModelConverted,
    ModelLoaded,
    ModelLoadProgressed,
    ModelLoadStarted,
    ModelUnloaded,
    RungEntered,
    RungLeft,
    TextsEmbedded,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from embank.memory.governor import MemorySnapshot
    from embank.memory.meter import Meter

SAMPLE_EVERY_S = 0.02
NEWBORN_S = 0.005
"""A child that has not yet become another program shows its parent's memory as its own for less than this."""

_BAR_WIDTH = 40
_STYLES = ("cyan", "magenta", "yellow", "blue", "red")


class PeakWatch:
    """Samples the process tree's memory, 50 times a second, in a thread of its own, while the block lasts."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._done = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._watch, name="embank-peak", daemon=True)
        self._processes = 0
        self.peak_bytes = 0
        self.samples = 0

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._failed is not None and error is None:
            raise self._failed

    def _watch(self) -> None:
        try:
            while not self._done.wait(SAMPLE_EVERY_S):
                self._sample()
        except Exception as error:  # noqa: BLE001 -- raised where the watch ends: a peak half measured is none
            self._failed = error

    def _sample(self) -> None:
        reading = self._meter.read()
        if reading.processes > self._processes > 0:
            # Between vfork and exec a child runs in its parent's memory, and both would count the same pages.
            self._done.wait(NEWBORN_S)
            reading = self._meter.read()
        self._processes = reading.processes
        self.peak_bytes = max(self.peak_bytes, reading.tree_bytes)
        self.samples += 1


class DemoProgress(Progress):
    """The progress of the demo's indexing: finer than a window's report, since it hears of each call of the model."""

    def __init__(self, label: str, memory: Callable[[], MemorySnapshot], watch: PeakWatch) -> None:
        super().__init__(label, memory)
        self.conversion_s: float | None = None
        self._watch = watch
        self._model = "model: not loaded"
        self._told = ""
        self._rung: str | None = None
        self._heard = 0
        self._first_s: float | None = None
        self._last_s = 0.0

    def hear(self, event: Event) -> None:
        """Take what happened; called in the stream's thread."""
        match event:
            case TextsEmbedded():
                now_s = time.perf_counter()
                self._first_s = now_s - event.seconds if self._first_s is None else self._first_s
                self._last_s = now_s
                self._heard += event.texts
            case ModelConversionStarted():
                self._model = f"model: converting {event.name} to {event.precision}, once"
            case ModelConverted():
                self.conversion_s = event.seconds
                self._model = (
                    f"model: {event.name} converted in {duration(event.seconds)}, child peak {size(event.peak_bytes)}"
                )
            case ModelLoadStarted():
                self._model = f"model: loading {event.model}"
            case ModelLoadProgressed():
                self._model = f"model: loading {event.model}, {event.fraction:.0%}, {event.step}"
            case ModelLoaded():
                self._model = f"model: {event.model} ready, loaded in {duration(event.seconds)}, {size(event.bytes)}"
            case ModelUnloaded():
                self._model = f"model: {event.model} unloaded"
            case RungEntered():
                self._rung = event.rung
            case RungLeft():
                self._rung = None
            case _:
                pass

    @property
    def rate(self) -> float:
        """Passages embedded a second, as heard from the model."""
        if self._first_s is None or self._last_s <= self._first_s:
            return super().rate
        return self._heard / (self._last_s - self._first_s)

    def line(self) -> str:
        """Figures, memory by consumer, and the model."""
        held = self.memory()
        parts = ", ".join(f"{name} {size(count)}" for name, count in _parts(held))
        told, self._told = self._told, self._model
        news = "" if told == self._model else f"; {self._model}"
        return f"{super().line()} ({parts}), peak {size(self._watch.peak_bytes)}{news}"

    def picture(self) -> RenderableType:
        """The bar of progress above the panel of memory."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        held = self.memory()
        parts = _parts(held)
        styles = [_STYLES[at % len(_STYLES)] for at in range(len(parts))]
        shares = [(count, style) for (_, count), style in zip(parts, styles, strict=True)]
        rows = table("consumer", "bytes", "share", numbers=["bytes"])
        rows.show_header = False
        for (name, count), style in zip(parts, styles, strict=True):
            add_row(
                rows,
                Text(name, style=style),
                Text(size(count)),
                bar([(count, style)], whole=held.budget_bytes, width=_BAR_WIDTH),
            )
        whole = Text(f"{size(held.real_bytes)} of {size(held.budget_bytes)}, peak {size(self._watch.peak_bytes)}")
        if self._rung is not None:
            whole.append(f", rung: {self._rung}", style="yellow")
        total = bar(shares, whole=held.budget_bytes, width=_BAR_WIDTH + 20)
        panel = Panel(Group(whole, total, rows), title="where each megabyte is", title_align="left", expand=False)
        return Group(self.headline(), Text(self._model, style="dim"), panel)


def _parts(held: MemorySnapshot) -> list[tuple[str, int]]:
    """Bytes by consumer, largest first, and what no consumer accounts for: the interpreter and libraries."""
    summed: dict[str, int] = {}
    for name, count in held.consumers:
        summed[name] = summed.get(name, 0) + count
    named = sorted(((name, count) for name, count in summed.items() if count), key=lambda part: -part[1])
    return [*named, ("interpreter, libraries, work", max(held.real_bytes - held.managed_bytes, 0))]

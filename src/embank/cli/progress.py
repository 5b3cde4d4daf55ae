"""How far a piece of work is, told while it runs, on standard error: a live line on a terminal, plain lines else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from embank.cli.output import bar, console, counted, duration, one_line, print_line, size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from embank.events.kinds import Event
    from embank.memory.governor import MemorySnapshot
    from embank.pipeline import IngestReport

LINE_EVERY_S = 2.0
PICTURES_PER_SECOND = 4
_BAR_WIDTH = 24


class Shown(Protocol):
    """What is under way, as a line and as a picture."""

    def line(self) -> str: ...

    def picture(self) -> RenderableType: ...


class Progress:
    """What is known of a run that is under way. Written by the ingesting thread, drawn by another."""

    def __init__(self, label: str, memory: Callable[[], MemorySnapshot]) -> None:
        self.label = label
        self.memory = memory
        self.seen = 0
        self.chunks = 0
        self.seconds = 0.0
        self.bytes_done = 0
        self.bytes_total: int | None = None
        self.loading = ""
        """What is said of a model that is being loaded; empty while none is."""

    def hear(self, event: Event) -> None:
        """Take what happened to the model; called in the stream's thread."""
        from embank.events.kinds import ModelLoaded, ModelLoadFailed, ModelLoadProgressed, ModelLoadStarted

        match event:
            case ModelLoadStarted():
                self.loading = f"loading {one_line(event.model, 40)}"
            case ModelLoadProgressed():
                self.loading = f"loading {one_line(event.model, 40)} {event.fraction:.0%}, {one_line(event.step, 60)}"
            case ModelLoaded() | ModelLoadFailed():
                self.loading = ""
            case _:
                pass

    def update(self, report: IngestReport) -> None:
        """Take the figures of a live report."""
        self.seen, self.chunks, self.seconds = report.seen, report.chunks, report.seconds
        self.bytes_done, self.bytes_total = report.bytes_done, report.bytes_total

    @property
    def fraction(self) -> float | None:
        """How much of the source is behind, 0 to 1, where the source can tell."""
        return None if not self.bytes_total else min(self.bytes_done / self.bytes_total, 1.0)

    @property
    def rate(self) -> float:
        """Passages embedded a second."""
        return self.chunks / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds to go if it goes on like this."""
        done = self.fraction
        return self.seconds * (1 - done) / done if done and self.seconds > 0 else None

    def facts(self) -> list[str]:
        """The figures in words."""
        told = [counted(self.seen, "document"), f"{self.rate:,.0f} texts/s"]
        if self.fraction is not None:
            told.append(f"{self.fraction:.0%}")
        if self.left_s is not None and (self.fraction or 0) < 1:
            told.append(f"{duration(self.left_s)} left")
        if self.loading:
            told.append(self.loading)
        held = self.memory()
        told.append(f"memory {size(held.real_bytes)} of {size(held.budget_bytes)}")
        return told

    def line(self) -> str:
        """One line for where no terminal is."""
        return f"{one_line(self.label, 60)}: {', '.join(self.facts())}"

    def picture(self) -> RenderableType:
        """What a terminal shows."""
        return self.headline()

    def headline(self) -> Text:
        """The bar and the figures."""
        from rich.text import Text

        made = Text(f"{one_line(self.label, 30)} ", no_wrap=True, overflow="ellipsis")
        if self.fraction is not None:
            made.append_text(bar([(self.bytes_done, "green")], whole=self.bytes_total or 0, width=_BAR_WIDTH))
            made.append(" ")
        return made.append(" · ".join(self.facts()))


class Doing:
    """Something with a name that is done to a fraction, and words for where it is. Written by one, drawn by another."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.fraction = 0.0
        self.words = ""

    def update(self, fraction: float, words: str) -> None:
        """Take how far it is."""
        self.fraction, self.words = min(max(fraction, 0.0), 1.0), words

    def line(self) -> str:
        """One line for where no terminal is."""
        return f"{one_line(self.label, 60)}: {self.fraction:.0%}, {one_line(self.words, 120)}"

    def picture(self) -> RenderableType:
        """What a terminal shows."""
        from rich.text import Text

        made = Text(f"{one_line(self.label, 40)} ", no_wrap=True, overflow="ellipsis")
        made.append_text(bar([(round(self.fraction * 1000), "green")], whole=1000, width=_BAR_WIDTH))
        return made.append(f" {self.fraction:.0%} {one_line(self.words, 120)}")


@contextmanager
def showing(progress: Shown, *, quiet: bool = False) -> Iterator[None]:
    """Show `progress` until the block ends. `quiet` shows nothing."""
    if quiet:
        yield
    elif sys.stderr.isatty():
        from rich.live import Live

        with Live(
            get_renderable=progress.picture,
            console=console(sys.stderr),
            refresh_per_second=PICTURES_PER_SECOND,
            transient=True,
        ):
            yield
    else:
        with repeating(LINE_EVERY_S, lambda: print_line(progress.line())):
            yield


@contextmanager
def repeating(every_s: float, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` every so many seconds in a thread of its own until the block ends; what it raises is raised there."""
    done = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        due_s = time.monotonic() + every_s
        while not done.wait(max(due_s - time.monotonic(), 0.0)):
            due_s = max(due_s + every_s, time.monotonic())
            try:
                act()
            except BaseException as error:  # noqa: BLE001 -- raised in the thread that waits for this one
                failed.append(error)
                return

    thread = threading.Thread(target=run, name="embank-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]

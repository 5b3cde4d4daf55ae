"""Isolated engines for tests: real child processes, with an engine that misbehaves when told to (`odd_worker.py`)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from embank.embed.engine import LoadRequest, Unbudgeted
from embank.embed.settings import Settings
from embank.embed.worker.isolated import IsolatedEngine, open_isolated
from embank.embed.worker.settings import Settings as WorkerSettings
from embank.events.kinds import Event

ODD_WORKER = Path(__file__).with_name("odd_worker.py")
PATIENCE_S = 60.0

_Kind = TypeVar("_Kind", bound=Event)


class Heard:
    """A publisher that keeps what it is told, and on which one can wait."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def publish(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def all(self, kind: type[_Kind]) -> list[_Kind]:
        with self._changed:
            return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[_Kind], count: int = 1, *, poke: Callable[[], object] = lambda: None) -> _Kind:
        """The `count`th event of the kind; `poke` is called again and again until it has come."""
        with self._changed:
            for _ in range(int(PATIENCE_S / 0.02)):
                found = [event for event in self.events if isinstance(event, kind)]
                if len(found) >= count:
                    return found[count - 1]
                poke()
                self._changed.wait(0.02)
        raise AssertionError(f"there was no {kind.__name__} number {count}: {self.events}")


class HandClock:
    """Stands still but when told; remembers what was slept."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


def odd_engine(folder: Path, *, publisher: Any = None, budget: Any = None, **given: Any) -> IsolatedEngine:
    """An isolated engine over `odd_worker.py`; keywords that are no argument of `open_isolated` are settings."""
    options = {key: given.pop(key) for key in ("clock", "measure", "command", "pinned") if key in given}
    on_progress = given.pop("on_progress", lambda _fraction, _step: None)
    options.setdefault("command", [sys.executable, "-P", str(ODD_WORKER)])
    request = LoadRequest(
        name="odd",
        folder=folder,
        known=None,
        precision="float32",
        device="cpu",
        settings=Settings(directory=folder),
        models_directory=folder,
        budget=budget or Unbudgeted(),
        publisher=publisher or Heard(),
        on_progress=on_progress,
    )
    return open_isolated("odd", request, settings=WorkerSettings.model_validate(given), **options)


def alive(pid: int) -> bool:
    """Whether there is such a process, a zombie included."""
    return Path(f"/proc/{pid}").exists()


def descriptors() -> set[str]:
    """What this process has open, as far as it concerns workers: sockets, memfds, eventfds, pipes."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # the listing's own
            continue
        if target.startswith(("socket:", "/memfd:", "anon_inode:", "pipe:")):
            found.add(f"{entry.name} {target}")
    return found

"""Models without a bank: `embank.models.load` gives one by name, ready to embed.

    >>> import embank
    >>> with embank.models.load("wordllama") as model:
    ...     vectors = model.embed(["Rivers carry silt.", "Bread rises."])
    >>> vectors.shape
    (2, 256)

A model is opened once in a process however often it is loaded with the same options, and let go when the last handle
to it is closed. A bank has models of its own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from embank.embed.loader import Loader
from embank.embed.resident import ModelState
from embank.embed.settings import Settings
from embank.errors import EmbeddingFailed, InvalidInput
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.meter import SystemMeter, machine_limit
from embank.memory.monitor import Monitor
from embank.memory.recovery import Recovery
from embank.memory.recovery_settings import Settings as RecoverySettings
from embank.memory.settings import Settings as MemorySettings
from embank.system.size import Size

if TYPE_CHECKING:
    from embank.embed.model import Kind, Precision, Vectors
    from embank.embed.progress import Listener
    from embank.events.kinds import MemoryRecovered
    from embank.memory.snapshot import MemorySnapshot

__all__ = ["LoadedModel", "load", "states"]


def load(
    name: str = "minilm",
    *,
    precision: Precision | None = None,
    engine: str | None = None,
    device: str | None = None,
    isolation: Literal["thread", "process"] | None = None,
    threads: int | None = None,
    dimensions: int | None = None,
    memory: str | int | None = None,
    on_progress: Listener | None = None,
    **settings: object,
) -> LoadedModel:
    """The model of that name (or folder), open and ready; a context manager.

    What is not given is as in section `embed` of the settings, of which `settings` are further keys
    (`keep_alive_s=None`, `directory=…`), or, with their section, those of memory and recovery
    (`**{"memory.monitor": False, "recovery.enabled": False}`); neither a settings file nor the environment is read.
    `memory` bounds what is added to the process from now on: bytes, "256MB" or "10%"; work that can't fit raises
    `BudgetExceeded`.
    `on_progress(name, fraction, step)` is told how far the load is.

    Raises `InvalidInput` for an option that can't be used, and what `Loader.get` raises.
    """
    given = {"device": device, "isolation": isolation, "threads": threads, "dimensions": dimensions, **settings}
    chosen = _settings({key: value for key, value in given.items() if key in settings or value is not None})
    hold = _ROOMS.hold((*chosen, None if memory is None else Size(memory)))
    try:
        model = hold.room.loader.get(name, precision=precision, engine=engine, on_progress=on_progress)
        hold.room.settle()
        return LoadedModel(name, model, hold)
    except BaseException:
        hold.leave()
        raise


def states() -> list[ModelState]:
    """How the models stand that were loaded here and not closed; see `ModelState`."""
    return [state for room in _ROOMS.open() for state in room.loader.states() if state.status != "absent"]


class LoadedModel:
    """A model in the hand. Follows `Model` and `CountsTokens`; thread-safe. Made by `load`.

    After `close` it raises `EmbeddingFailed`. A model that nobody used for `keep_alive_s` is let go meanwhile, and
    comes back with the next call.
    """

    def __init__(self, name: str, model: Any, hold: _Hold) -> None:
        self._name = name
        self._model = model
        self._hold = hold
        self._closed = False

    @property
    def fingerprint(self) -> str:
        return str(self._open().fingerprint)

    @property
    def dimension(self) -> int:
        return int(self._open().dimension)

    @property
    def max_tokens(self) -> int:
        return int(self._open().max_tokens)

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """float32 of shape (len(texts), dimension), rows L2-normalised; see `Model`.

        Raises `InvalidInput`, `BudgetExceeded`, `EmbeddingFailed`.
        """
        vectors: Vectors = self._open().embed(texts, kind)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens, before truncation."""
        return list(self._open().count_tokens(texts))

    @property
    def events(self) -> Stream:
        """What happens to the model: loads, calls, clean-ups."""
        return self._hold.room.stream

    def state(self) -> ModelState:
        """How the model stands now."""
        state: ModelState = self._open().state()
        return state

    def memory(self) -> MemorySnapshot | None:
        """Where memory stands against the budget; None where `load` was given none."""
        governor = self._hold.room.governor
        return None if governor is None else governor.snapshot()

    def release(self) -> MemoryRecovered:
        """Let the model go unless a call uses it, and give back to the system all that can be; the clean-up after it.

        The next call loads it again.
        """
        self._open().unload()
        return self._hold.room.recovery.recover_now()

    def close(self) -> None:
        """Give up this handle; with the last one the model goes. May be repeated."""
        self._closed = True
        self._hold.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LoadedModel({self._name!r})"

    def _open(self) -> Any:
        if self._closed:
            raise EmbeddingFailed(f"the model {self._name!r} was closed: load it again", model=self._name)
        return self._model


class _Room:
    """A loader with its options and what belongs to it, kept while anybody holds a model of it."""

    def __init__(
        self, settings: Settings, memory: MemorySettings, recovery: RecoverySettings, budget: Size | None
    ) -> None:
        # Weak: a handle that is forgotten without being closed counts no longer.
        self.holds: weakref.WeakSet[_Hold] = weakref.WeakSet()
        self.stream = Stream()
        self.governor = None if budget is None else _governor(budget, self.stream, memory)
        managed = (lambda: 0) if self.governor is None else self.governor.managed_here_bytes
        self.monitor: Monitor | None = None
        if self.governor is not None and memory.monitor:
            self.monitor = Monitor(self.governor, settings=memory, publish=self.stream.publish)
            self.monitor.start()
        self.recovery = Recovery(recovery, managed_bytes=managed, publish=self.stream.publish)
        self.loader = Loader(settings, governor=self.governor, stream=self.stream, recovery=self.recovery)
        self._settling = threading.Lock()
        self._settled = False

    def settle(self) -> None:
        """Take the governor's floor, once: now that a model is there."""
        with self._settling:
            if self.governor is not None and not self._settled:
                self.governor.settle()
            self._settled = True

    def close(self) -> None:
        self.loader.close()
        if self.monitor is not None:
            self.monitor.close()
        self.recovery.recover_now()
        self.recovery.close()
        self.stream.close()


class _Hold:
    """One handle's share in a room."""

    def __init__(self, rooms: _Rooms, room: _Room) -> None:
        self._rooms = rooms
        self.room = room

    def leave(self) -> None:
        """Give it up; the last one closes the room."""
        if self._rooms.leave(self):
            self.room.close()


_Key = tuple[Settings, MemorySettings, RecoverySettings, Size | None]


class _Rooms:
    """The rooms of this process, so that one model is not loaded twice. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Weak: where all handles were forgotten, the collector closes the room, threads and all.
        self._rooms: weakref.WeakValueDictionary[_Key, _Room] = weakref.WeakValueDictionary()

    def hold(self, key: _Key) -> _Hold:
        with self._lock:
            room = self._rooms.get(key)
            if room is None:
                room = self._rooms[key] = _Room(*key)
            hold = _Hold(self, room)
            room.holds.add(hold)
            return hold

    def leave(self, hold: _Hold) -> bool:
        """Whether this was the last; only the first call of the last hold answers so."""
        with self._lock:
            room = hold.room
            if hold not in room.holds:
                return False
            room.holds.discard(hold)
            if room.holds:
                return False
            for key in [key for key, each in self._rooms.items() if each is room]:
                del self._rooms[key]
            return True

    def open(self) -> list[_Room]:
        with self._lock:
            return list(self._rooms.values())


# One model a process is a promise about the process, so that this is the process's.
_ROOMS = _Rooms()


def _settings(given: dict[str, object]) -> tuple[Settings, MemorySettings, RecoverySettings]:
    from pydantic import ValidationError

    sections: dict[str, dict[str, object]] = {"embed": {}, "memory": {}, "recovery": {}}
    for key, value in given.items():
        section, dot, name = key.rpartition(".")
        if dot and section not in sections:
            known = ", ".join(sections)
            raise InvalidInput(f"{key!r} can't be set here: its section is none of {known}", problems=key)
        sections[section or "embed"][name] = value
    try:
        return (
            Settings.model_validate(sections["embed"]),
            MemorySettings.model_validate(sections["memory"]),
            RecoverySettings.model_validate(sections["recovery"]),
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise InvalidInput(f"these options can't be used: {problems}", problems=problems) from error


def _governor(budget: Size, stream: Stream, settings: MemorySettings) -> Governor:
    meter = SystemMeter()
    return Governor(
        budget.resolve(machine_limit()),
        meter=meter,
        stream=stream,
        baseline_bytes=meter.read().tree_bytes,
        settings=settings,
    )

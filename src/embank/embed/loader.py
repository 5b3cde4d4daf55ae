"""Models by name, each opened once in a process however many threads ask.

Covers finding a model's files and engine, handing out one `ResidentModel` per model, precision and dimension,
registering it with the governor, and telling how each one stands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, get_args

from embank.embed.adopted import adopt
from embank.embed.catalog import KNOWN, KnownModel
from embank.embed.engine import LoadRequest, Unbudgeted, Unheard
from embank.embed.locate import locate, models_directory
from embank.embed.model import Precision
from embank.embed.resident import ModelState, ResidentModel
from embank.errors import InvalidInput
from embank.registry import ENGINES, resolve
from embank.system.clock import Clock, SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from embank.embed.engine import Budget, Engine, OnProgress, Publisher
    from embank.embed.model import Model
    from embank.embed.settings import Settings
    from embank.memory.governor import Governor
    from embank.memory.roster import Registration

_FOLDER_ENGINE = "ct2"
_OWN_ENGINE = ""
"""Stands for the engine that a model's files are for."""


class Loader:
    """See the module. Thread-safe.

    Without a governor nothing is bounded or registered; without a stream nobody hears of loads. `engine_of` gives the
    `load` function behind an engine's name; `known` are the models that have one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        governor: Governor | None = None,
        stream: Publisher | None = None,
        clock: Clock | None = None,
        known: Mapping[str, KnownModel] = KNOWN,
        engine_of: Callable[[str], Callable[[LoadRequest], Engine]] = lambda name: resolve(ENGINES, name),
    ) -> None:
        self._settings = settings
        self._governor = governor
        self._budget: Budget = governor or Unbudgeted()
        self._publisher: Publisher = stream or Unheard()
        self._clock = clock or SystemClock()
        self._known = known
        self._engine_of = engine_of
        self._lock = threading.Lock()
        self._models: dict[tuple[str, str, str], ResidentModel] = {}
        self._registrations: list[Registration] = []

    @property
    def directory(self) -> Path:
        """Where converted and pulled models are kept."""
        return models_directory(self._settings.directory)

    def get(
        self, name: str | None = None, *, precision: Precision | None = None, engine: str | None = None
    ) -> ResidentModel:
        """The model of that name, open and ready; by default the one that the settings name, as they say.

        Fifty threads that ask at once get the same object, opened once. Raises `ModelNotFound` for a name that is
        neither known nor a folder and for a known model that is not on this machine, `ModelFileError`,
        `BudgetExceeded`; after a failure the next call tries again.
        """
        settings = self._settings
        model = self._resident(
            name or settings.model, precision or settings.precision, engine or settings.engine or _OWN_ENGINE
        )
        model.warm()
        return model

    def adopt(self, model: Model, *, normalize: bool = False) -> Model:
        """A user's own model, checked on every answer; see `embank.embed.adopted`."""
        return adopt(model, normalize=normalize, publisher=self._publisher)

    def states(self) -> list[ModelState]:
        """How every model stands that was asked for so far, and `absent` for the known ones that were not."""
        with self._lock:
            asked = [model.state() for model in self._models.values()]
        names = {state.name for state in asked}
        precision = self._settings.precision
        return asked + [ModelState(name, precision, "absent") for name in self._known if name not in names]

    def unload(self, name: str) -> int:
        """Let a model go in every precision, where no call uses it; the bytes given up. Its handles stay good."""
        located = locate(name, directory=self.directory, known=self._known)
        key = located.name if located.known else str(located.folder)
        with self._lock:
            models = [model for (place, _, _), model in self._models.items() if place == key]
        return sum(model.unload() for model in models)

    def unload_all(self) -> int:
        """Let every model go that no call is using; the bytes given up."""
        with self._lock:
            models = list(self._models.values())
        return sum(model.unload() for model in models)

    def close(self) -> None:
        """Unload everything and leave the governor. A model that is in use stays open until its call returns."""
        with self._lock:
            models, self._models = list(self._models.values()), {}
            registrations, self._registrations = self._registrations, []
        for registration in registrations:
            registration.close()
        for model in models:
            model.unload()

    def _resident(self, name: str, precision: Precision, engine: str) -> ResidentModel:
        if precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise InvalidInput(f"unknown precision {precision!r}: there are {known}", value=precision)
        located = locate(name, directory=self.directory, known=self._known)
        place = located.name if located.known else str(located.folder)
        if located.known is not None and len(located.known.precisions) == 1:
            precision = located.known.precisions[0]
        key = (place, precision, engine)
        with self._lock:
            model = self._models.get(key)
            if model is None:
                model = ResidentModel(
                    located.name,
                    precision,
                    lambda on_progress: self._open(place, precision, engine, on_progress),
                    budget=self._budget,
                    publisher=self._publisher,
                    clock=self._clock,
                )
                self._models[key] = model
                if self._governor is not None:
                    self._registrations.append(self._governor.register(model, rung="release"))
        return model

    def _open(self, place: str, precision: Precision, engine: str, on_progress: OnProgress) -> Engine:
        # Located anew: files may have been pulled, or gone, since the last time.
        located = locate(place, directory=self.directory, known=self._known)
        request = LoadRequest(
            name=located.name,
            folder=located.folder,
            known=located.known,
            precision=precision,
            device=self._settings.device,
            settings=self._settings,
            models_directory=self.directory,
            budget=self._budget,
            publisher=self._publisher,
            on_progress=on_progress,
        )
        own = located.known.engine if located.known is not None else _FOLDER_ENGINE
        return self._engine_of(engine or own)(request)

"""Models by name, each opened once in a process however many threads ask.

Covers finding a model's files and engine, handing out one `ResidentModel` per model, precision and dimension,
registering it with the governor, letting it go when nobody used it for long, and telling how each one stands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, get_args

from embank.embed.adopted import adopt
from embank.embed.device import empty_device_cache
from embank.embed.engine import LoadRequest, Unbudgeted, Unheard
from embank.embed.files.catalog import KNOWN, KnownModel, find_known
from embank.embed.files.locate import identity, locate, models_directory
from embank.embed.formats.folder import own_engine
from embank.embed.idle import IdleWatch
from embank.embed.matryoshka import cut, trained_dimensions
from embank.embed.model import Precision
from embank.embed.progress import Progress
from embank.embed.remote.endpoint import PREFIX
from embank.embed.resident import ModelState, ResidentModel
from embank.embed.shared import ENGINES as SHARED
from embank.errors import InvalidInput
from embank.registry import ENGINES, resolve
from embank.system.clock import Clock, SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from embank.embed.engine import Budget, Engine, OnProgress, Publisher
    from embank.embed.files.locate import Located
    from embank.embed.model import Model
    from embank.embed.progress import Listener
    from embank.embed.remote.model import RemoteModel
    from embank.embed.remote.settings import Settings as RemoteSettings
    from embank.embed.settings import Settings
    from embank.embed.worker.settings import Settings as WorkerSettings
    from embank.memory.governor import Governor
    from embank.memory.recovery import Recovery
    from embank.memory.roster import Registration

_OWN_ENGINE = ""
"""Stands for the engine that a model's files are for."""
AUTO = "auto"
"""Stands for the engine that measuring finds best."""


class _Way(NamedTuple):
    """How a model is computed; `batch_tokens` None: as the engine says."""

    engine: str
    precision: Precision
    batch_tokens: int | None = None


class Loader:
    """See the module. Thread-safe.

    Without a governor nothing is bounded or registered; without a stream nobody hears of loads, but `on_progress` is
    told how far each is; `recovery` cleans up after calls. `engine_of` gives the `load` function behind an engine's
    name; `known` are the models that have one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        governor: Governor | None = None,
        stream: Publisher | None = None,
        recovery: Recovery | None = None,
        clock: Clock | None = None,
        on_progress: Listener | None = None,
        known: Mapping[str, KnownModel] = KNOWN,
        engine_of: Callable[[str], Callable[[LoadRequest], Engine]] = lambda name: resolve(ENGINES, name),
        remote: RemoteSettings | None = None,
        worker: WorkerSettings | None = None,
    ) -> None:
        self._settings = settings
        self._governor = governor
        self._budget: Budget = governor or Unbudgeted()
        self._publisher: Publisher = stream or Unheard()
        self._recovery = recovery
        self._clock = clock or SystemClock()
        self._on_progress = on_progress
        self._known = known
        self._engine_of = engine_of
        self._lock = threading.Lock()
        self._models: dict[tuple[str, str, str, int], ResidentModel] = {}
        self._remote_settings = remote
        self._worker = worker
        self._remotes: dict[tuple[str, int], RemoteModel] = {}
        self._registrations: list[Registration] = []
        if recovery is not None:
            self._registrations.append(recovery.add_hook("empty the device cache", empty_device_cache))
        if governor is not None:
            self._registrations.append(governor.register_action("recycle", "recycle workers", self.recycle))
        self._idle = IdleWatch(self._residents, keep_alive_s=settings.keep_alive_s, clock=self._clock)

    @property
    def directory(self) -> Path:
        """Where converted and pulled models are kept."""
        return models_directory(self._settings.directory)

    def get(
        self,
        name: str | None = None,
        *,
        precision: Precision | None = None,
        engine: str | None = None,
        dimensions: int | None = None,
        on_progress: Listener | None = None,
    ) -> ResidentModel | RemoteModel:
        """The model of that name, open and ready; by default the one that the settings name, as they say.

        `dimensions` cuts its vectors, where it was trained for that; 0 leaves them whole, whatever the settings say.

        `remote:NAME` is a model of the endpoint in section `remote`, whatever the precision.

        Fifty threads that ask at once get the same object, opened once. Raises `ModelNotFound` for a name that is
        neither known nor a folder and for a known model that is not on this machine, `ModelFileError`,
        `BudgetExceeded`; after a failure the next call tries again. `on_progress(name, fraction, step)` is told how
        far the load is, and 1.0 when the model is ready.
        """
        settings = self._settings
        wanted = name or settings.model
        width = (settings.dimensions or 0) if dimensions is None else dimensions
        if wanted.startswith(PREFIX):
            remote = self._remote(wanted, engine or (None if name else settings.engine), width)
            remote.warm()
            Progress(wanted, self._on_progress, on_progress).tell(1.0, "ready")
            return remote
        model = self._resident(wanted, self._way(wanted, precision, engine, on_progress), width)
        model.warm(on_progress)
        return model

    def dimensions(self, name: str) -> tuple[int, ...]:
        """The lengths that the vectors of a model may be cut to, longest first, by its training; it is not loaded."""
        if name.startswith(PREFIX):
            return ()
        located = locate(name, directory=self.directory, known=self._known)
        return trained_dimensions(located.known, located.folder)

    def adopt(self, model: Model, *, normalize: bool = False) -> Model:
        """A user's own model, checked on every answer; see `embank.embed.adopted`."""
        return adopt(model, normalize=normalize, publisher=self._publisher)

    def states(self) -> list[ModelState]:
        """How every model stands that was asked for so far, and `absent` for the known ones that were not."""
        with self._lock:
            asked = [model.state() for model in self._all()]
        names = {state.name for state in asked}
        precision = self._settings.precision
        return asked + [ModelState(name, precision, "absent") for name in self._known if name not in names]

    def unload(self, name: str) -> int:
        """Let a model go in every precision, where no call uses it; the bytes given up. Its handles stay good."""
        if name.startswith(PREFIX):
            remotes = [model for (place, _), model in self._remotes.items() if place == name]
            return sum(model.unload() for model in remotes)
        wanted = self._place(name)
        with self._lock:
            models = [model for (place, *_), model in self._models.items() if place == wanted]
        return sum(model.unload() for model in models)

    def unload_all(self) -> int:
        """Let every model go that no call is using; the bytes given up."""
        with self._lock:
            models = self._all()
        return sum(model.unload() for model in models)

    def recycle(self) -> int:
        """Replace every process that holds a model by a fresh one, once its batches are done; the bytes these held.

        A replacement is started first where the budget has room for both; else requests wait for it.
        """
        freed_bytes = 0
        for model in self._residents():
            room_bytes = 0 if self._governor is None else self._governor.available_bytes()
            freed_bytes += model.recycle(room_bytes)
        return freed_bytes

    def close(self) -> None:
        """Unload everything and leave the governor. A model that is in use stays open until its call returns."""
        with self._lock:
            models = self._all()
            self._models, self._remotes = {}, {}
            registrations, self._registrations = self._registrations, []
        self._idle.close()
        for registration in registrations:
            registration.close()
        for model in models:
            model.unload()

    def _way(self, name: str, precision: Precision | None, engine: str | None, on_progress: Listener | None) -> _Way:
        """With which engine, in which precision and in what batches a model is computed, measured where asked for."""
        settings = self._settings
        way = _Way(engine or settings.engine or _OWN_ENGINE, precision or settings.precision)
        if way.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise InvalidInput(f"unknown precision {way.precision!r}: there are {known}", value=way.precision)
        if way.engine != AUTO and not settings.measured_batches:
            return way
        from embank.embed.choice import CANDIDATES, Candidate, choose

        located = locate(name, directory=self.directory, known=self._known)
        own = located.known.engine if located.known is not None else own_engine(located.folder)
        candidates = tuple(
            each
            for each in CANDIDATES
            if way.engine == AUTO or (each.engine, each.precision) == (way.engine or own, way.precision)
        )
        if own not in {each.engine for each in CANDIDATES}:
            candidates = (Candidate(own, "float32"),)  # a model of another kind has its own engine only
        progress = Progress(located.name, self._on_progress, on_progress)
        chosen = choose(
            located,
            settings,
            self.directory,
            memory_bytes=None if self._governor is None else self._governor.available_bytes(),
            candidates=candidates or (Candidate(way.engine or own, way.precision),),
            on_step=progress.tell,
        ).chosen
        return _Way(chosen.engine, chosen.precision, chosen.batch_tokens)

    def _resident(self, name: str, way: _Way, width: int) -> ResidentModel:
        precision, engine = way.precision, way.engine
        known = find_known(name, self._known)
        # Asked before every search: a known model's files are looked for when it is opened, not here.
        place = self._place(name) if known is None else known.name
        if known is not None and len(known.precisions) == 1:
            precision = known.precisions[0]
        if known is not None and width == known.dimension:
            width = 0  # the whole vector: not another model
        key = (place, precision, engine, width)
        with self._lock:
            model = self._models.get(key)
            if model is None:
                located = locate(name, directory=self.directory, known=self._known)
                model = ResidentModel(
                    located.name,
                    precision,
                    lambda on_progress: self._open(place, precision, engine, width, on_progress),
                    budget=self._budget,
                    publisher=self._publisher,
                    clock=self._clock,
                    recovery=self._recovery,
                    pinned=self._is_pinned(name, located),
                    batch_tokens=way.batch_tokens if self._settings.batching else 1,  # one row, however short
                    learns=self._settings.isolation == "thread",
                    on_progress=self._on_progress,
                    on_open=self._idle.wake,
                )
                self._models[key] = model
                if self._governor is not None:
                    in_child = self._settings.isolation == "process"
                    self._registrations.append(self._governor.register(model, rung="unload", in_child=in_child))
        return model

    def _place(self, name: str) -> str:
        """What a model's handles are kept under: a known one's name, any other's folder."""
        located = locate(name, directory=self.directory, known=self._known)
        return located.name if located.known else str(located.folder)

    def _is_pinned(self, name: str, located: Located) -> bool:
        """Whether the settings pin it, by the name asked for, its own, an alias of it or its folder."""
        names = {name, located.name, str(located.folder)}
        if located.known is not None:
            names.update(located.known.aliases)
        return not names.isdisjoint(self._settings.pinned)

    def _residents(self) -> list[ResidentModel]:
        with self._lock:
            return list(self._models.values())

    def _all(self) -> list[ResidentModel | RemoteModel]:
        return [*self._models.values(), *self._remotes.values()]

    def _remote(self, name: str, engine: str | None, width: int) -> RemoteModel:
        from embank.embed.remote.model import RemoteModel
        from embank.embed.remote.settings import Settings as RemoteSettings

        if engine not in (None, "remote", "auto"):
            raise InvalidInput(
                f"the model {name!r} is computed by its endpoint, not by the {engine} engine: leave embed.engine empty",
                value=engine,
            )
        with self._lock:
            settings = self._remote_settings or RemoteSettings()
            model_name = name.removeprefix(PREFIX) or settings.model
            if model_name is None:
                raise InvalidInput(f"{name!r} names no model: write {PREFIX}NAME, or set remote.model", value=name)
            key = (PREFIX + model_name, width)
            if key not in self._remotes:
                self._remotes[key] = RemoteModel(
                    model_name,
                    settings,
                    dimensions=width or None,
                    offline=self._settings.offline,
                    budget=self._budget,
                    publisher=self._publisher,
                    clock=self._clock,
                )
            return self._remotes[key]

    def _open(self, place: str, precision: Precision, engine: str, width: int, on_progress: OnProgress) -> Engine:
        # Located anew: files may have been pulled, or gone, since the last time.
        located = locate(place, directory=self.directory, known=self._known)
        request = LoadRequest(
            name=located.name,
            folder=located.folder,
            known=located.known,
            precision=precision,
            device=self._settings.device,
            settings=self._settings.model_copy(update={"dimensions": width or None}),
            models_directory=self.directory,
            budget=self._budget,
            publisher=self._publisher,
            on_progress=on_progress,
        )
        engine = engine or (located.known.engine if located.known is not None else own_engine(located.folder))
        pinned = self._is_pinned(place, located)

        def open_engine() -> Engine:
            if request.settings.isolation == "thread":
                return cut(self._engine_of(engine)(request), request)
            from embank.embed.worker.isolated import open_isolated

            return cut(open_isolated(engine, request, settings=self._worker, pinned=pinned, clock=self._clock), request)

        # All that makes it another engine.
        key = (
            self._engine_of,
            identity(located),
            precision,
            engine,
            request.settings,
            self._worker,
            self.directory,
            pinned,
        )
        return SHARED.get(key, open_engine)

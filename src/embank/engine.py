"""Assembles the rooms from settings: wiring only. Each thing is made when it is first needed, and once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embank.caches import Caches
from embank.chunk.splitters import Splitter
from embank.config import Config, load
from embank.embed.model import CountsTokens, Model, Precision
from embank.embed.reduce import split_fingerprint
from embank.errors import FingerprintMismatch, InvalidInput
from embank.events.kinds import ReembedAbandoned
from embank.events.stream import Stream
from embank.kit import Kit
from embank.memory.creep.watch import Creep
from embank.memory.governor import Governor
from embank.memory.meter import SystemMeter, machine_limit
from embank.memory.monitor import Monitor
from embank.memory.pressure import watch
from embank.memory.recovery import Recovery
from embank.pipeline import OnCommit, OnProgress, Pipeline, approximate_tokens
from embank.reduce.fitted import Fitted
from embank.reduce.reducer import Reducer
from embank.reembedding import OnReembedProgress, Reembedder, ReembedReport
from embank.registry import SECTIONS
from embank.search.searcher import Searcher
from embank.store.collection import StoredCollection
from embank.store.index.protocol import Float32
from embank.store.local import LocalStore
from embank.store.protocol import CollectionInfo, Reembedding, Space
from embank.store.reductions import Reductions
from embank.system.clock import Clock, SystemClock
from embank.system.files import Files

if TYPE_CHECKING:
    from embank.embed.loader import Loader
    from embank.memory.meter import Meter


def load_config(
    flags: Mapping[str, object], *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """The settings of every room, from defaults, file, environment and flags."""
    return load(SECTIONS, file=file, environ=os.environ if environ is None else environ, flags=flags)


@dataclass(frozen=True, slots=True)
class Target:
    """Which model a collection is to be re-embedded with; what is not given stays as it is."""

    model: str | Model | None = None
    precision: Precision | None = None
    engine: str | None = None


class Engine:
    """The rooms of one open bank."""

    def __init__(
        self,
        root: Path,
        *,
        config: Config,
        read_only: bool,
        own_process: bool,
        model: Model | None = None,
        clock: Clock | None = None,
        meter: Meter | None = None,
        files: Files | None = None,
    ) -> None:
        """Open the bank at `root`. In somebody else's process the memory held now does not count against the budget."""
        self.config = config
        self.clock = clock or SystemClock()
        self.stream = Stream()
        meter = meter or SystemMeter()
        memory = config.section("memory")
        self.governor = Governor(
            memory.budget.resolve(machine_limit()),
            meter=meter,
            clock=self.clock,
            stream=self.stream,
            baseline_bytes=0 if own_process else meter.read().tree_bytes,
            settings=memory,
        )
        self.recovery = Recovery(
            config.section("recovery"),
            managed_bytes=self.governor.managed_here_bytes,
            publish=self.stream.publish,
            clock=self.clock,
            meter=meter,
        )
        self.creep = Creep(
            config.section("creep"),
            managed_bytes=self.governor.managed_here_bytes,
            consumers=self.governor.consumers_here,
            recover=self._recover,
            publish=self.stream.publish,
            limit_bytes=lambda: self.governor.budget_bytes,
            clock=self.clock,
        )
        self.monitor = Monitor(self.governor, settings=memory, publish=self.stream.publish, clock=self.clock)
        self.store = LocalStore(
            root,
            read_only=read_only,
            settings=config.section("store"),
            index=config.section("index"),
            ask=self._ask,
            stream=self.stream,
            governor=self.governor,
            files=files,
            clock=self.clock,
        )
        self.caches = Caches(
            config.section("cache"),
            root,
            read_only=read_only,
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
        )
        self._reductions = Reductions(self.store.database, clock=self.clock)
        self.fitted = Fitted(self._reductions)
        self.governor.register(self.fitted)
        self._own_model = model
        self._loader: Loader | None = None
        self._guard = threading.Lock()
        self._settled = False
        self._reembedded: dict[str, Model] = {}
        if memory.monitor:
            self.monitor.start()
        # Whose word this is: the service manager's, to a process that it started for Embank.
        heeds = own_process and memory.pressure_watch
        self._pressure = watch(os.environ, self.governor.report_pressure) if heeds else None

    def loader(self) -> Loader:
        """The one loader; importing it brings numpy and the tokenizers along."""
        with self._guard:
            if self._loader is None:
                from embank.embed.loader import Loader

                self._loader = Loader(
                    self.config.section("embed"),
                    governor=self.governor,
                    stream=self.stream,
                    recovery=self.recovery,
                    remote=self.config.section("remote"),
                    worker=self.config.section("worker"),
                )
            return self._loader

    def default_model(self) -> Model:
        """The model of new collections, asked through the cache: the user's own, or the one that the settings name."""
        return self.caches.around(self._default_model())

    def _default_model(self) -> Model:
        if self._own_model is not None:
            return self._warm(self.loader().adopt(self._own_model))
        return self._warm(self.loader().get())

    def warm(self) -> None:
        """Load the model of new collections, and fetch its latest vectors from the disk."""
        self.caches.warm_up(self._default_model())

    def model_for(self, info: CollectionInfo | None) -> Model | None:
        """The model of a collection's vectors, reduced as they are; `None` where they are the user's own.

        The collection remembers it, whatever the settings name for new ones; but a model asked for in this very call
        is taken at its word, and refused by its fingerprint where it is another one.
        """
        if info is None or info.fingerprint is None:
            return self.default_model()
        if info.fingerprint.startswith(USER_SPACE):
            return None
        return self.fitted.around(self._whole_model_for(info), collection=info.name, fingerprint=info.fingerprint)

    def _whole_model_for(self, info: CollectionInfo) -> Model:
        whole, _ = split_fingerprint(info.fingerprint or "")
        if whole in self._reembedded:
            return self.caches.around(self._reembedded[whole])
        if info.model is None or self._own_model is not None or self._names_a_model():
            return self.default_model()
        return self.caches.around(self._warm(self.loader().get(**json.loads(info.model))))

    def pipeline(
        self,
        collection: StoredCollection,
        *,
        on_progress: OnProgress | None = None,
        on_commit: OnCommit | None = None,
    ) -> Pipeline:
        """The write path into a collection, with the model that its vectors are of."""
        return Pipeline(
            collection,
            lambda: self._kit_of(collection),
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
            operation=self.creep.track("ingest"),
            on_progress=on_progress,
            on_commit=on_commit,
        )

    def reembed(
        self,
        collection: StoredCollection,
        target: Target,
        *,
        force: bool = False,
        on_progress: OnReembedProgress | None = None,
    ) -> ReembedReport:
        """Give every document of a collection vectors of the target's model; or go on with what was interrupted."""
        collection.check_reembedding()
        info, under_way = collection.info(), collection.reembedding()
        model, recipe = self._target_model(info, under_way, target, force=force)
        dtype = self.config.section("store").dtype if self._is_flag("store.dtype") else None
        same = info is not None and info.fingerprint == model.fingerprint and dtype in (None, info.dtype)
        if same and under_way is None and not force:
            return ReembedReport(
                collection.name, model.fingerprint, model.fingerprint, info.documents if info else 0, "nothing to do"
            )
        # Known from the moment of the swap on, whatever the settings name.
        self._reembedded[model.fingerprint] = model
        return Reembedder(
            collection,
            self._kit(model, recipe),
            dtype=dtype,
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
            operation=self.creep.track("reembed"),
            on_progress=on_progress,
        ).run()

    def abandon_reembedding(self, collection: StoredCollection) -> Reembedding | None:
        """Throw away a re-embedding that was begun; what it was, or `None`."""
        abandoned = collection.abandon_reembedding()
        if abandoned is not None:
            self.stream.publish(
                ReembedAbandoned(
                    collection=collection.name,
                    fingerprint=abandoned.space.fingerprint,
                    remaining=abandoned.remaining,
                )
            )
        return abandoned

    def searcher(self, collection: StoredCollection) -> Searcher:
        """The read path of a collection."""
        return Searcher(
            collection,
            self.model_for,
            narrow=self.fitted.query,
            results=self.caches.results,
            settings=self.config.section("search"),
            stream=self.stream,
            clock=self.clock,
        )

    def reducer(self, collection: StoredCollection) -> Reducer:
        """What makes a collection's vectors smaller."""
        return Reducer(
            collection,
            self._reductions,
            model_for=self.model_for,
            trained_for=self._trained_for,
            collection_of=self.store.collection,
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
        )

    def release(self) -> int:
        """Give back what can be earned again: models, the database's pages, writers' heaps, the allocator's hoard.

        Returns the bytes freed, as measured. Asked for by a person, so a model goes even if it was used a moment ago,
        but never from under a call.
        """
        before = self.governor.snapshot()
        self.store.database.release()
        if self._loader is not None:
            self._loader.unload_all()
            self.recovery.recover_now()
        # More than there can be, so that everybody is asked, even where a shrunken host makes what is held look like 0.
        self.governor.relieve(before.real_bytes + before.managed_bytes + 1)
        return max(before.real_bytes - self.governor.snapshot().real_bytes, 0)

    def close(self) -> None:
        """Close the store, unload the model, end the event stream."""
        try:
            self.store.close()
        finally:
            self.caches.close()
            if self._loader is not None:
                self._loader.close()
            if self._pressure is not None:
                self._pressure.close()
            self.monitor.close()
            self.creep.close()
            self.recovery.close()
            self.stream.close()

    def _ask(self, info: CollectionInfo, texts: list[str]) -> Float32 | None:
        """Questions embedded with a collection's model; `None` for vectors of somebody's own."""
        model = self.model_for(info)
        return None if model is None or model.fingerprint != info.fingerprint else model.embed(texts, "query")

    def _recover(self) -> None:
        """All that can be given back without a person's word: what consumers hold, and the allocator's hoard."""
        self.governor.relieve(self.governor.managed_bytes() + 1, "a jump of memory")
        self.recovery.recover_now()

    def _warm(self, model: Model) -> Model:
        """With the first model in memory, what is held beside the consumers is the floor."""
        if not self._settled:
            self._settled = True
            self.governor.settle()
        return model

    def _kit_of(self, collection: StoredCollection) -> Kit:
        info = collection.info()
        model = self.model_for(info)
        if model is None:
            raise FingerprintMismatch(
                f"collection {collection.name!r} holds vectors of your own ({info and info.fingerprint}): "
                f"add documents with vectors=, use another collection, or `embank reembed` this one with a model"
            )
        return self._kit(model, self._recipe())

    def _kit(self, model: Model, recipe: str | None) -> Kit:
        chunk = self.config.section("chunk")
        counter = model.count_tokens if isinstance(model, CountsTokens) else approximate_tokens
        # Two tokens of every text are the model's own: its beginning and its end.
        splitter = Splitter(counter, max_tokens=chunk.tokens(model.max_tokens - 2), overlap_tokens=chunk.overlap_tokens)
        return Kit(model, splitter, Space(model.fingerprint, model.dimension, recipe))

    def _target_model(
        self, info: CollectionInfo | None, under_way: Reembedding | None, target: Target, *, force: bool
    ) -> tuple[Model, str | None]:
        """The model to re-embed with, and how to load it again: as named; else that of what is under way."""
        named: dict[str, Any] = {"precision": target.precision, "engine": target.engine}
        given = {key: value for key, value in named.items() if value is not None}
        if target.model is not None and not isinstance(target.model, str):
            if given:
                raise InvalidInput(f"a model of your own has no {' or '.join(given)} to choose")
            return self._warm(self.loader().adopt(target.model)), None
        if target.model is not None:
            recipe = {"name": target.model, **given}
        elif under_way is not None and not given:
            recipe = json.loads(under_way.space.model or "{}")
        elif info is not None and info.model is not None and (given or force):
            recipe = {**json.loads(info.model), **given}
        else:
            recipe = {}
        if recipe:
            model: Model = self._warm(self.loader().get(**recipe))
            if under_way is not None and target.model is None and not given:  # it may be a reduction that was begun
                name, fingerprint = under_way.collection, under_way.space.fingerprint
                model = self.fitted.around(model, collection=name, fingerprint=fingerprint)
            return model, self._recipe_with(recipe)
        own = None if self._own_model is None else self._default_model()
        if own is not None and ((under_way is not None and under_way.space.fingerprint == own.fingerprint) or force):
            return own, None
        raise InvalidInput("say which model the documents are to be embedded with: a name, a folder, or a Model")

    def _trained_for(self, info: CollectionInfo) -> tuple[int, ...]:
        """Lengths below theirs that a collection's vectors may be cut to, by their model's training."""
        if info.model is None or info.dimension is None or split_fingerprint(info.fingerprint or "")[1]:
            return ()
        trained = self.loader().dimensions(json.loads(info.model)["name"])
        return tuple(each for each in trained if each < info.dimension)

    def _names_a_model(self) -> bool:
        return any(map(self._is_flag, ("embed.model", "embed.precision", "embed.engine", "embed.dimensions")))

    def _is_flag(self, key: str) -> bool:
        return self.config.provenance(key).startswith("flag")

    def _recipe(self) -> str | None:
        """How to load the model again, where the settings say so."""
        return None if self._own_model is not None else self._recipe_with({})

    def _recipe_with(self, named: Mapping[str, Any]) -> str:
        """The settings' recipe with other values for what is named."""
        embed = self.config.section("embed")
        recipe = {
            "name": embed.model,
            "precision": embed.precision,
            "engine": embed.engine,
            "dimensions": embed.dimensions or 0,
            **named,
        }
        return json.dumps({key: value for key, value in recipe.items() if value is not None})


USER_SPACE = "user:"
"""Fingerprints that begin so are of vectors that the user brings along: `user:NAME:DIMENSION`."""

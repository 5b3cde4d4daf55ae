"""Assembles the rooms from settings: wiring only. Each thing is made when it is first needed, and once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embank.chunk.splitters import Splitter
from embank.config import Config, load
from embank.embed.model import CountsTokens, Model
from embank.errors import FingerprintMismatch
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.meter import SystemMeter, machine_limit
from embank.pipeline import OnCommit, OnProgress, Pipeline, approximate_tokens
from embank.registry import SECTIONS
from embank.search.searcher import Searcher
from embank.store.collection import StoredCollection
from embank.store.local import LocalStore
from embank.store.protocol import CollectionInfo, Space
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
        self.store = LocalStore(
            root,
            read_only=read_only,
            settings=config.section("store"),
            stream=self.stream,
            governor=self.governor,
            files=files,
            clock=self.clock,
        )
        self._own_model = model
        self._loader: Loader | None = None
        self._guard = threading.Lock()
        self._settled = False

    def loader(self) -> Loader:
        """The one loader; importing it brings numpy and the tokenizers along."""
        with self._guard:
            if self._loader is None:
                from embank.embed.loader import Loader

                self._loader = Loader(self.config.section("embed"), governor=self.governor, stream=self.stream)
            return self._loader

    def default_model(self) -> Model:
        """The model of new collections: the user's own, or the one that the settings name."""
        if self._own_model is not None:
            return self._warm(self.loader().adopt(self._own_model))
        return self._warm(self.loader().get())

    def model_for(self, info: CollectionInfo | None) -> Model | None:
        """The model of a collection's vectors; `None` where they are the user's own.

        The collection remembers it, whatever the settings name for new ones; but a model asked for in this very call
        is taken at its word, and refused by its fingerprint where it is another one.
        """
        if info is None or info.fingerprint is None:
            return self.default_model()
        if info.fingerprint.startswith(USER_SPACE):
            return None
        if info.model is None or self._own_model is not None or self._names_a_model():
            return self.default_model()
        return self._warm(self.loader().get(**json.loads(info.model)))

    def pipeline(
        self,
        collection: StoredCollection,
        *,
        on_progress: OnProgress | None = None,
        on_commit: OnCommit | None = None,
    ) -> Pipeline:
        """The write path into a collection, with the model that its vectors are of."""
        info = collection.info()
        model = self.model_for(info)
        if model is None:
            raise FingerprintMismatch(
                f"collection {collection.name!r} holds vectors of your own ({info and info.fingerprint}): "
                f"add documents with vectors=, or use another collection"
            )
        chunk = self.config.section("chunk")
        counter = model.count_tokens if isinstance(model, CountsTokens) else approximate_tokens
        # Two tokens of every text are the model's own: its beginning and its end.
        splitter = Splitter(counter, max_tokens=chunk.tokens(model.max_tokens - 2), overlap_tokens=chunk.overlap_tokens)
        return Pipeline(
            collection,
            model,
            splitter,
            space=Space(model.fingerprint, model.dimension, self._recipe()),
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
            on_progress=on_progress,
            on_commit=on_commit,
        )

    def searcher(self, collection: StoredCollection) -> Searcher:
        """The read path of a collection."""
        return Searcher(
            collection,
            self.model_for,
            settings=self.config.section("search"),
            stream=self.stream,
            clock=self.clock,
        )

    def release(self) -> int:
        """Give back what can be earned again: models, writers' heaps, the allocator's hoard. Bytes freed, as measured.

        Asked for by a person, so a model goes even if it was used a moment ago, but never from under a call.
        """
        before = self.governor.snapshot()
        if self._loader is not None:
            self._loader.unload_all()
        # More than there can be, so that everybody is asked, even where a shrunken host makes what is held look like 0.
        self.governor.relieve(before.real_bytes + before.managed_bytes + 1)
        return max(before.real_bytes - self.governor.snapshot().real_bytes, 0)

    def close(self) -> None:
        """Close the store, unload the model, end the event stream."""
        try:
            self.store.close()
        finally:
            if self._loader is not None:
                self._loader.close()
            self.stream.close()

    def _warm(self, model: Model) -> Model:
        """With the first model in memory, what is held beside the consumers is the floor."""
        if not self._settled:
            self._settled = True
            self.governor.settle()
        return model

    def _names_a_model(self) -> bool:
        keys = ("embed.model", "embed.precision", "embed.engine", "embed.dimensions")
        return any(self.config.provenance(key).startswith("flag") for key in keys)

    def _recipe(self) -> str | None:
        """How to load the model again, where the settings say so."""
        if self._own_model is not None:
            return None
        embed = self.config.section("embed")
        recipe = {"name": embed.model, "precision": embed.precision, "engine": embed.engine}
        return json.dumps({key: value for key, value in recipe.items() if value is not None})


USER_SPACE = "user:"
"""Fingerprints that begin so are of vectors that the user brings along: `user:NAME:DIMENSION`."""

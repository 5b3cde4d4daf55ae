"""Which model a collection's vectors are of, and how it is had again: from settings, recipes and what was handed in.

A collection remembers the *recipe* of its model (name, precision, engine, dimensions, as JSON), whatever the settings
name for new ones. Models are asked through the caches, except where they are asked to compute anew (re-embedding).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embank.caches import Caches
from embank.chunk.splitters import Splitter
from embank.config import Config
from embank.embed.model import CountsTokens, Model, Precision
from embank.embed.reduce import split_fingerprint
from embank.errors import FingerprintMismatch, InvalidInput
from embank.kit import Kit
from embank.pipeline import approximate_tokens
from embank.reduce.fitted import Fitted
from embank.store.collection import StoredCollection
from embank.store.index.protocol import Float32
from embank.store.protocol import CollectionInfo, Reembedding, Space

if TYPE_CHECKING:
    from embank.embed.loader import Loader

USER_SPACE = "user:"
"""Fingerprints that begin so are of vectors that the user brings along: `user:NAME:DIMENSION`."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which model a collection is to be re-embedded with; what is not given stays as it is."""

    model: str | Model | None = None
    precision: Precision | None = None
    engine: str | None = None


class ModelBook:
    """See the module. `own` is the user's own model, which then is that of new collections.

    `on_ready` is called with every model that is there: the first one tells the governor where the floor is.
    """

    def __init__(
        self,
        config: Config,
        loader: Callable[[], Loader],
        *,
        caches: Caches,
        fitted: Fitted,
        own: Model | None,
        on_ready: Callable[[], None],
    ) -> None:
        self._config = config
        self._loader = loader
        self._caches = caches
        self._fitted = fitted
        self._own = own
        self._on_ready = on_ready
        self._reembedded: dict[str, Model] = {}

    @property
    def own_name(self) -> str | None:
        """What the user's own model calls itself; `None` where that of new collections is one of the settings."""
        return None if self._own is None else self._own.fingerprint.partition(":")[0]

    def default(self) -> Model:
        """The model of new collections, asked through the cache: the user's own, or the one that the settings name."""
        return self._caches.around(self._default())

    def warm(self) -> None:
        """Load the model of new collections, and fetch its latest vectors from the disk."""
        self._caches.warm_up(self._default())

    def knows(self, model: Model) -> None:
        """From now on collections with this model's vectors are asked through it, whatever the settings name."""
        self._reembedded[model.fingerprint] = model

    def of(self, info: CollectionInfo | None) -> Model | None:
        """The model of a collection's vectors, reduced as they are; `None` where they are the user's own.

        The collection remembers it, whatever the settings name for new ones; but a model asked for in this very call
        is taken at its word, and refused by its fingerprint where it is another one.
        """
        if info is None or info.fingerprint is None:
            return self.default()
        if info.fingerprint.startswith(USER_SPACE):
            return None
        return self._fitted.around(self._whole_model_for(info), collection=info.name, fingerprint=info.fingerprint)

    def questions(self, info: CollectionInfo, texts: list[str]) -> Float32 | None:
        """Questions embedded with a collection's model; `None` for vectors of somebody's own."""
        model = self.of(info)
        return None if model is None or model.fingerprint != info.fingerprint else model.embed(texts, "query")

    def kit_of(self, collection: StoredCollection) -> Kit:
        """What makes passages and vectors for a collection; `FingerprintMismatch` where these are the user's own."""
        info = collection.info()
        model = self.of(info)
        if model is None:
            raise FingerprintMismatch(
                f"collection {collection.name!r} holds vectors of your own ({info and info.fingerprint}): "
                f"add documents with vectors=, use another collection, or `embank reembed` this one with a model"
            )
        return self.kit(model, self._recipe())

    def kit(self, model: Model, recipe: str | None) -> Kit:
        """The same for a model, which is had again by `recipe`."""
        chunk = self._config.section("chunk")
        counter = model.count_tokens if isinstance(model, CountsTokens) else approximate_tokens
        # Two tokens of every text are the model's own: its beginning and its end.
        splitter = Splitter(counter, max_tokens=chunk.tokens(model.max_tokens - 2), overlap_tokens=chunk.overlap_tokens)
        return Kit(model, splitter, Space(model.fingerprint, model.dimension, recipe))

    def target(
        self, info: CollectionInfo | None, under_way: Reembedding | None, target: Target, *, force: bool
    ) -> tuple[Model, str | None]:
        """The model to re-embed with, and how to load it again: as named; else that of what is under way."""
        named: dict[str, Any] = {"precision": target.precision, "engine": target.engine}
        given = {key: value for key, value in named.items() if value is not None}
        if target.model is not None and not isinstance(target.model, str):
            if given:
                raise InvalidInput(f"a model of your own has no {' or '.join(given)} to choose")
            return self._ready(self._loader().adopt(target.model)), None
        if target.model is not None:
            recipe = {"name": target.model, **given}
        elif under_way is not None and not given:
            recipe = json.loads(under_way.space.model or "{}")
        elif info is not None and info.model is not None and (given or force):
            recipe = {**json.loads(info.model), **given}
        else:
            recipe = {}
        if recipe:
            model: Model = self._ready(self._loader().get(**recipe))
            if under_way is not None and target.model is None and not given:  # it may be a reduction that was begun
                name, fingerprint = under_way.collection, under_way.space.fingerprint
                model = self._fitted.around(model, collection=name, fingerprint=fingerprint)
            return model, self._recipe_with(recipe)
        own = None if self._own is None else self._default()
        if own is not None and ((under_way is not None and under_way.space.fingerprint == own.fingerprint) or force):
            return own, None
        raise InvalidInput("say which model the documents are to be embedded with: a name, a folder, or a Model")

    def trained_for(self, info: CollectionInfo) -> tuple[int, ...]:
        """Lengths below theirs that a collection's vectors may be cut to, by their model's training."""
        if info.model is None or info.dimension is None or split_fingerprint(info.fingerprint or "")[1]:
            return ()
        trained = self._loader().dimensions(json.loads(info.model)["name"])
        return tuple(each for each in trained if each < info.dimension)

    def is_flag(self, key: str) -> bool:
        """Whether the setting was named in this very call."""
        return self._config.provenance(key).startswith("flag")

    def _default(self) -> Model:
        if self._own is not None:
            return self._ready(self._loader().adopt(self._own))
        return self._ready(self._loader().get())

    def _ready(self, model: Model) -> Model:
        self._on_ready()
        return model

    def _whole_model_for(self, info: CollectionInfo) -> Model:
        whole, _ = split_fingerprint(info.fingerprint or "")
        if whole in self._reembedded:
            return self._caches.around(self._reembedded[whole])
        if info.model is None or self._own is not None or self._names_a_model():
            return self.default()
        return self._caches.around(self._ready(self._loader().get(**json.loads(info.model))))

    def _names_a_model(self) -> bool:
        return any(map(self.is_flag, ("embed.model", "embed.precision", "embed.engine", "embed.dimensions")))

    def _recipe(self) -> str | None:
        """How to load the model again, where the settings say so."""
        return None if self._own is not None else self._recipe_with({})

    def _recipe_with(self, named: Mapping[str, Any]) -> str:
        """The settings' recipe with other values for what is named."""
        embed = self._config.section("embed")
        recipe = {
            "name": embed.model,
            "precision": embed.precision,
            "engine": embed.engine,
            "dimensions": embed.dimensions or 0,
            **named,
        }
        return json.dumps({key: value for key, value in recipe.items() if value is not None})

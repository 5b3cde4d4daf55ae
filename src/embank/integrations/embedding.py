"""Texts made into vectors by an open bank, a running server or a model alone, by the same two calls.

Embedder(bank)      the model of the bank's new collections, through its cache
Embedder(client)    that of a server
Embedder("minilm")  a model by its name or folder, without any bank; also a `Model` that is there already
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from embank.bank import Bank
from embank.client.client import Client
from embank.embed import models
from embank.embed.model import Model
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.embed.model import Kind

Source = Bank | Client | Model | str

_TEXTS_AT_ONCE = 250
_CHARACTERS_AT_ONCE = 1 << 20


class Embedder:
    """See the module. Thread-safe. `name` is what the model calls itself."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._embed: Callable[[list[str], Kind], list[list[float]]]
        if isinstance(source, Client):
            self.name = source.models().data[0].id
            self._embed = self._by_server
        elif isinstance(source, Bank):
            self.name = source.engine.models.own_name or source.config.section("embed").model
            self._embed = self._by_model
        else:
            model = models.load(source) if isinstance(source, str) else source
            if not isinstance(model, Model):
                raise InvalidInput(f"give a bank, an embank.Client, a model or its name, not {type(source).__name__}")
            self.name = model.fingerprint.partition(":")[0]
            self._model = model
            self._embed = self._by_model

    def passages(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of texts that are to be found, in their order, of length 1."""
        return self._embed(list(texts), "passage")

    def query(self, text: str) -> list[float]:
        """The vector of a question."""
        return self._embed([text], "query")[0]

    def _by_model(self, texts: list[str], kind: Kind) -> list[list[float]]:
        if not texts:
            return []
        model = self.source.engine.models.default() if isinstance(self.source, Bank) else self._model
        rows: list[list[float]] = model.embed(texts, kind).tolist()
        return rows

    def _by_server(self, texts: list[str], kind: Kind) -> list[list[float]]:
        assert isinstance(self.source, Client)  # noqa: S101 -- chosen so in __init__
        rows: list[list[float]] = []
        start = 0
        while start < len(texts):
            end, size = start, 0
            while end < len(texts) and end - start < _TEXTS_AT_ONCE and (end == start or size < _CHARACTERS_AT_ONCE):
                size += len(texts[end])
                end += 1
            answer = self.source.embed(texts[start:end], model=self.name, input_type=kind)
            rows += [each.embedding for each in answer.data if not isinstance(each.embedding, str)]
            start = end
        return rows

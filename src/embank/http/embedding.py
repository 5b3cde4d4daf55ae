"""Texts and rows of tokens made into vectors for `/v1/embeddings`, small requests sharing their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed.detokenize import Detokenizer, tokenizer_file
from embank.embed.model import CountsTokens
from embank.embed.texts import checked_texts
from embank.errors import EmbeddingFailed
from embank.http.coalescer import Coalescer
from embank.http.errors import Refusal
from embank.pipeline import approximate_tokens

if TYPE_CHECKING:
    from embank.embed.model import Kind, Model, Vectors
    from embank.engine import Engine
    from embank.http.settings import Settings
    from embank.http.workers import Workers

_SHARED_CHARACTERS = 16_384
"""Requests of more text than this have batches of their own."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, one row a text, and the tokens that were asked for."""

    vectors: Vectors
    tokens: int


class Embedding:
    """Of the model of new collections. To be used from one event loop."""

    def __init__(self, engine: Engine, workers: Workers, settings: Settings) -> None:
        self._engine = engine
        self._workers = workers
        self._settings = settings
        self._coalescers: dict[Kind, Coalescer[tuple[Any, int]]] = {}
        self._detokenizer: Detokenizer | None = None

    @property
    def requests(self) -> int:
        """Requests that could share batches, so far."""
        return sum(each.requests for each in self._coalescers.values())

    @property
    def batches(self) -> int:
        """Batches that they took."""
        return sum(each.batches for each in self._coalescers.values())

    def names(self) -> tuple[str, ...]:
        """What the model may be called: first as in the settings, or as it calls itself where it is the user's own."""
        own = self._engine.models.own_name
        return (own or self._engine.config.section("embed").model, *self._settings.model_names)

    def check(self) -> None:
        """Raise the `Refusal` (429) that a small request would meet now, whatever its texts: it costs nothing yet."""
        for each in self._coalescers.values():
            each.check()

    async def embed(self, texts: list[str], kind: Kind) -> Embedded:
        """Vectors of `texts`, in their order; each counts as a text of `kind`."""
        checked_texts(texts)  # what is none must not fail those that share a batch with it
        few = len(texts) <= self._settings.coalesce_texts and sum(map(len, texts)) <= _SHARED_CHARACTERS
        rows: Sequence[tuple[Any, int]]
        if not few:
            rows = await self._workers.run(self._compute, texts, kind)
        else:
            rows = await self._coalescer(kind).embed(texts)
        vectors = np.stack([vector for vector, _ in rows])
        if not np.isfinite(vectors).all():  # JSON has no words for them
            raise EmbeddingFailed("the model answered with values that are not finite")
        return Embedded(vectors, sum(tokens for _, tokens in rows))

    async def texts_of(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts that rows of the model's own tokens stand for. `Refusal` where they can't be told."""
        return await self._workers.run(self._decoded, rows)

    def _coalescer(self, kind: Kind) -> Coalescer[tuple[Any, int]]:
        if kind not in self._coalescers:

            async def compute(texts: list[str]) -> list[tuple[Any, int]]:
                return await self._workers.run(self._compute, texts, kind)

            self._coalescers[kind] = Coalescer(
                compute, wait_s=self._settings.coalesce_wait_s, most_wait_s=self._settings.thread_wait_s
            )
        return self._coalescers[kind]

    def _compute(self, texts: list[str], kind: Kind) -> list[tuple[Any, int]]:
        model: Model = self._engine.models.default()
        vectors = model.embed(texts, kind)
        counts = model.count_tokens(texts) if isinstance(model, CountsTokens) else approximate_tokens(texts)
        return list(zip(vectors, counts, strict=True))

    def _decoded(self, rows: Sequence[Sequence[int]]) -> list[str]:
        if self._detokenizer is None:
            embed = self._engine.config.section("embed")
            path = tokenizer_file(embed.model, directory=self._engine.loader().directory)
            if path is None or self._engine.models.own_name:
                raise Refusal(
                    400, "tokens_not_read", "the tokens of this model can't be read here: send texts", param="input"
                )
            self._detokenizer = Detokenizer(path)
            self._engine.governor.register(self._detokenizer)
        return self._detokenizer.texts(rows)

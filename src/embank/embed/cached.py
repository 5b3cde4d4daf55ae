"""A model that computes no text twice: a wrapper around the `Model` protocol that asks an `EmbeddingCache` first.

Vectors are kept under the model's fingerprint and the kind of text, so models never answer for each other, whatever
stands in front (a reduction) or behind (a worker process, an endpoint): a hit reaches neither. A vector is the one that
the cache can keep, made unit length again, the first time as well as later: the same bits, hit or miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed.model import CountsTokens
from embank.embed.texts import checked_kind, checked_texts

if TYPE_CHECKING:
    from embank.cache.embeddings import EmbeddingCache
    from embank.embed.model import Kind, Model, Vectors

_PIECE_TEXTS = 1_024
"""Texts whose vectors are there twice, as they are computed and as they are handed on."""


def cached(model: Model, cache: EmbeddingCache) -> Model:
    """`model` with `cache` in front; it counts tokens where `model` does."""
    return (_CountingCachedModel if isinstance(model, CountsTokens) else CachedModel)(model, cache)


class CachedModel:
    """Made by `cached`. Thread-safe where the model inside is. Follows `Model`."""

    def __init__(self, model: Model, cache: EmbeddingCache) -> None:
        self._model: Any = model
        self._cache = cache

    @property
    def fingerprint(self) -> str:
        return str(self._model.fingerprint)

    @property
    def dimension(self) -> int:
        return int(self._model.dimension)

    @property
    def max_tokens(self) -> int:
        return int(self._model.max_tokens)

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """See `Model`. Only what is not in the cache is computed, each text once."""
        listed, kind = checked_texts(texts), checked_kind(kind)
        vectors = np.empty((len(listed), self.dimension), np.float32)
        if listed:
            self._cache.learn(self.fingerprint, self.dimension)  # so that a second level is asked
        for first in range(0, len(listed), _PIECE_TEXTS):
            kept = self._cache.get_or_compute(
                listed[first : first + _PIECE_TEXTS],
                lambda missing: self._model.embed(missing, kind),
                space=self.fingerprint,
                kind=kind,
            )
            np.divide(kept, np.linalg.norm(kept, axis=1, keepdims=True), out=vectors[first : first + _PIECE_TEXTS])
        return vectors


class _CountingCachedModel(CachedModel):
    """With a model inside that can count tokens."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return list(self._model.count_tokens(texts))

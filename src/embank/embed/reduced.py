"""A model whose vectors a fitted PCA makes narrower: a wrapper around the `Model` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed.model import CountsTokens
from embank.embed.texts import checked_texts
from embank.errors import EmbeddingFailed, FingerprintMismatch, InvalidInput

if TYPE_CHECKING:
    from embank.embed.model import Kind, Model, Vectors
    from embank.embed.reduce import Pca

# Texts whose full vectors are held at the same time.
_WINDOW_TEXTS = 4_096


def reduced(model: Model, pca: Pca) -> Model:
    """`model` with its vectors reduced by `pca`; it counts tokens where `model` does.

    Raises `FingerprintMismatch` where the PCA was fitted on vectors of another model.
    """
    if model.fingerprint != pca.source:
        raise FingerprintMismatch(
            f"the PCA {pca.version} was fitted on vectors of {pca.source}, this model makes {model.fingerprint}: "
            f"use the model it was fitted with, or fit another",
            stored=pca.source,
            offered=model.fingerprint,
        )
    return (_CountingReducedModel if isinstance(model, CountsTokens) else ReducedModel)(model, pca)


class ReducedModel:
    """Made by `reduced`. Thread-safe where the model inside is. Follows `Model`."""

    def __init__(self, model: Model, pca: Pca) -> None:
        self._model: Any = model
        self._pca = pca
        self._fingerprint = pca.fingerprint

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def dimension(self) -> int:
        return self._pca.dimension

    @property
    def max_tokens(self) -> int:
        return int(self._model.max_tokens)

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """See `Model`. Of the full vectors only those of one window of texts are there at a time."""
        listed = checked_texts(texts)
        narrow = np.empty((len(listed), self.dimension), np.float32)
        for first in range(0, len(listed), _WINDOW_TEXTS):
            full = self._model.embed(listed[first : first + _WINDOW_TEXTS], kind)
            try:
                narrow[first : first + _WINDOW_TEXTS] = self._pca.apply(full)
            except InvalidInput as error:  # what the model answered can't be used, not what the caller gave
                index = first + int(error.fields.get("index", 0))
                raise EmbeddingFailed(
                    f"the vector of texts[{index}] by {self._model.fingerprint} can't be reduced: {error}",
                    model=self._fingerprint,
                    index=index,
                ) from error
        return narrow


class _CountingReducedModel(ReducedModel):
    """With a model inside that can count tokens."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return list(self._model.count_tokens(texts))

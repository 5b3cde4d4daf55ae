"""A user's own `Model`, checked on every answer, so that nothing wrong is stored or searched with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed.engine import Unheard
from embank.embed.model import CountsTokens
from embank.embed.texts import checked_kind, checked_texts
from embank.errors import EmbankError, EmbeddingFailed, InvalidInput
from embank.events.kinds import TextsEmbedded

if TYPE_CHECKING:
    from embank.embed.engine import Publisher
    from embank.embed.model import Kind, Model, Vectors

_NORM_TOLERANCE = 1e-3


def adopt(model: Model, *, normalize: bool = False, publisher: Publisher | None = None) -> Model:
    """Wrap `model` in checks: count, width, dtype, finite values, norms. With `normalize` it need not normalise itself.

    The answer counts tokens exactly where `model` does. Raises `InvalidInput` when it is no model. Thread-safe where
    `model` is. Its memory is its own affair: it is not registered with the governor.
    """
    if isinstance(model, AdoptedModel):
        return model
    for name in ("fingerprint", "dimension", "max_tokens", "embed"):
        if not hasattr(model, name):
            raise InvalidInput(f"{type(model).__name__} is no Model: it has no {name!r}", missing=name)
    given: Any = model  # the types are promised, not kept
    if not isinstance(given.fingerprint, str) or not given.fingerprint:
        raise InvalidInput("a model's fingerprint must be a text that is not empty", value=given.fingerprint)
    for name, value in (("dimension", given.dimension), ("max_tokens", given.max_tokens)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidInput(f"a model's {name} must be a whole number above 0, not {value!r}", value=value)
    kind = _CountingAdoptedModel if isinstance(model, CountsTokens) else AdoptedModel
    return kind(model, normalize=normalize, publisher=publisher or Unheard())


class AdoptedModel:
    """Made by `adopt`."""

    def __init__(self, model: Model, *, normalize: bool, publisher: Publisher) -> None:
        self._model: Any = model
        self._normalize = normalize
        self._publisher = publisher
        self._fingerprint = model.fingerprint
        self._dimension = model.dimension
        self._max_tokens = model.max_tokens

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """What the user's model answers, checked. Raises `InvalidInput` for texts and `EmbeddingFailed` for answers."""
        listed = checked_texts(texts)
        if not listed:
            return np.empty((0, self._dimension), dtype=np.float32)
        started_s = time.perf_counter()
        try:
            answered = self._model.embed(listed, checked_kind(kind))
        except (EmbankError, MemoryError):
            raise
        except Exception as error:
            raise self._failed(f"raised {type(error).__name__}: {error}") from error
        vectors = self._checked(answered, len(listed))
        seconds = time.perf_counter() - started_s
        self._publisher.publish(TextsEmbedded(self._fingerprint, len(listed), 0, 0, seconds))
        return vectors

    def _checked(self, answered: object, count: int) -> Vectors:
        try:
            array = np.asarray(answered)
        except ValueError as error:  # rows of different lengths
            raise self._failed(f"answered with what is no matrix: {error}") from error
        wanted = (count, self._dimension)
        if array.shape != wanted:
            raise self._failed(f"answered with shape {array.shape} where {wanted} was due")
        if not np.issubdtype(array.dtype, np.floating):
            raise self._failed(f"answered with {array.dtype}, not with floating-point numbers")
        vectors = np.array(array, dtype=np.float32, order="C")  # a copy: the model may reuse its buffer
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        bad = ~((norms > 0) & np.isfinite(norms))
        if not self._normalize:
            bad |= np.abs(norms - 1) > _NORM_TOLERANCE
        if bad.any():
            index = int(np.flatnonzero(bad)[0])
            hint = "" if self._normalize or not np.isfinite(norms[index]) else " (normalize=True does that for it)"
            raise self._failed(f"answered texts[{index}] with a vector of norm {norms[index]:g}, not 1{hint}")
        vectors /= norms[:, np.newaxis]
        return vectors

    def _failed(self, what: str) -> EmbeddingFailed:
        return EmbeddingFailed(f"the model {self._fingerprint!r} {what}", model=self._fingerprint)


class _CountingAdoptedModel(AdoptedModel):
    """An adopted model that can count tokens, too."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        listed = checked_texts(texts)
        counts = [int(count) for count in self._model.count_tokens(listed)]
        if len(counts) != len(listed) or any(count < 0 for count in counts):
            raise self._failed(f"counted the tokens of {len(listed)} texts as {counts[:8]}")
        return counts

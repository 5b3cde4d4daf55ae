"""What turns a collection's documents into passages and vectors: a splitter, a model, and the space they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from embank.chunk.splitters import Splitter
from embank.embed.model import Model
from embank.errors import EmbeddingFailed
from embank.records import Chunk
from embank.store.protocol import Float32, Space

WINDOW_DOCUMENTS = 256
WINDOW_CHARACTERS = 262_144
"""A window ends with the document that reaches either: enough texts to sort by length, and little to lose."""

WINDOW_WAIT_S = 60.0
"""How long a window waits for memory before the run ends with `BudgetExceeded`; what was committed stays."""


class HasText(Protocol):
    """What a window is made of."""

    @property
    def text(self) -> str: ...


_Text = TypeVar("_Text", bound=HasText)


@dataclass(frozen=True, slots=True)
class Kit:
    """As thread-safe as its model."""

    model: Model
    splitter: Splitter
    space: Space

    def digest(self, text: str) -> bytes:
        """Names a text and the way it is cut: where it is equal, nothing needs to be embedded again."""
        recipe = f"{self.splitter.recipe}\0".encode()
        return hashlib.blake2b(recipe + text.encode(), digest_size=16).digest()

    def chunks(self, text: str) -> list[Chunk]:
        """The passages of a text. A blank one has none, but its document is kept and can be got and listed."""
        return self.splitter.split(text)

    def embed(self, texts: Sequence[str]) -> Float32:
        """The vectors of passages, shape (len(texts), dimension); `EmbeddingFailed` when the model answers wrongly."""
        if not texts:
            return np.empty((0, self.space.dimension), np.float32)
        vectors = self.model.embed(texts, "passage")
        if vectors.shape != (len(texts), self.space.dimension):
            raise EmbeddingFailed(
                f"the model answered {vectors.shape} for {len(texts)} texts of {self.space.dimension}"
            )
        if not np.isfinite(vectors).all():
            raise EmbeddingFailed("the model answered with values that are not finite")
        return vectors

    def window_bytes(self, texts: Sequence[str]) -> int:
        """Bytes that embedding and writing passages holds beside the model's own."""
        # The vectors as they come, twice on their way through the cache, and as they are stored; and the text once more
        # as passages.
        return len(texts) * self.space.dimension * 14 + sum(map(len, texts))


def windows(documents: Iterable[_Text]) -> Iterator[list[_Text]]:
    """Cut a stream of documents into windows of bounded count and size."""
    window: list[_Text] = []
    size = 0
    for document in documents:
        window.append(document)
        size += len(document.text)
        if len(window) >= WINDOW_DOCUMENTS or size >= WINDOW_CHARACTERS:
            yield window
            window, size = [], 0
    if window:
        yield window

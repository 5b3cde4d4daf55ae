"""Small stand-ins that behave like the real thing: fast, deterministic and without weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embank.embed.model import Fingerprint, Kind
from embank.embed.texts import checked_texts

if TYPE_CHECKING:
    from embank.embed.model import Vectors

_WORD = re.compile(r"\w+")


class HashModel:
    """A bag of hashed words: texts that share words are similar, equal texts are equal, nothing is learned.

    Each word becomes a fixed vector of `dimension` centred bytes; a text is the normalised sum of its first
    `max_tokens` words plus a faint constant, so that an empty text has a vector, too. Sums are exact in float32: alone
    or batched, in any order, a text has the same bits. Thread-safe: it has no state. It follows `Model` and
    `CountsTokens`.
    """

    def __init__(self, *, dimension: int = 64, max_tokens: int = 256, name: str = "hash") -> None:
        self._dimension = dimension
        self._max_tokens = max_tokens
        self._fingerprint = Fingerprint(
            name=name,
            weights="none",
            tokenizer="words",
            pooling="sum",
            normalized=True,
            dimension=dimension,
            engine="hash",
            precision="float32",
        )

    @property
    def fingerprint(self) -> str:
        return str(self._fingerprint)

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words a text, before any truncation."""
        return [len(_WORD.findall(text)) for text in checked_texts(texts)]

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:  # noqa: ARG002 — no prefixes here
        listed = checked_texts(texts)
        vectors = np.empty((len(listed), self._dimension), dtype=np.float32)
        for row, text in enumerate(listed):
            vectors[row] = self._sum(text)
        # The constant keeps the norm above zero; words outweigh it 16 to 1.
        normalized: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normalized

    def _sum(self, text: str) -> Vectors:
        words = _WORD.findall(text.casefold())[: self._max_tokens]
        digests = b"".join(hashlib.shake_128(word.encode()).digest(self._dimension) for word in words)
        rows = np.frombuffer(digests, dtype=np.uint8).reshape(len(words), self._dimension).astype(np.float32)
        total: Vectors = (rows - np.float32(127.5)).sum(axis=0, dtype=np.float32)
        total[::2] += np.float32(4.0)
        total[1::2] -= np.float32(4.0)
        return total

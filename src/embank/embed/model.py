"""The protocol that every embedding model follows, and the identity of the vectors it makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]
    """float32, shape (n, dimension), C-contiguous, one L2-normalised row a text."""

Kind = Literal["query", "passage"]
"""What a text is embedded as; models with prefixes treat the two differently."""

Precision = Literal["int8", "float32", "float16", "bfloat16"]
"""What a model's weights are held and computed in; which of them there are is up to the engine and the device."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which vectors may stand beside each other: those whose fingerprints are equal (DESIGN law 6)."""

    name: str
    weights: str
    tokenizer: str
    pooling: str
    normalized: bool
    dimension: int
    engine: str
    precision: str
    quantization: str = "none"
    query_prefix: str = ""
    passage_prefix: str = ""
    long_texts: str = "truncate"
    """`split` where a text beyond `max_tokens` is embedded in pieces, whose vectors are averaged by their tokens."""
    reduction: str = "none"
    """What was done to the vectors afterwards to make them narrower, with its version."""

    @property
    def digest(self) -> str:
        """Short, stable hash over every field."""
        fields = asdict(self)
        # Fields that came later are left out where they change nothing, so that older vectors keep their name.
        for name, nothing in (("long_texts", "truncate"), ("reduction", "none")):
            if fields[name] == nothing:
                del fields[name]
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        return f"{self.name}:{self.engine}:{self.precision}:{self.dimension}:{self.digest}"


@runtime_checkable
class Model(Protocol):
    """An embedding model.

    `embed` answers float32 of shape (len(texts), dimension), rows L2-normalised, in the order given; the vector of a
    text does not depend on its neighbours. Texts longer than `max_tokens` are truncated by the model; who cuts text
    into passages uses `count_tokens` to avoid that. Thread-safe. Empty `texts` gives shape (0, dimension).
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors: ...


@runtime_checkable
class CountsTokens(Protocol):
    """What a model can do besides: tell how many tokens a text has, so that passages are cut to fit.

    Counts are of whole texts, without special tokens and prefixes. A model without it is served by a cruder counter,
    which whoever cuts text brings along.
    """

    def count_tokens(self, texts: Sequence[str]) -> Sequence[int]: ...

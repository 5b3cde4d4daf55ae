"""What passes between the store and the rooms above it, whoever keeps the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from embank.records import Chunk, Document, Metadata
from embank.records import StoredDocument as StoredDocument  # noqa: PLC0414 -- a part of what passes
from embank.store.info import CollectionInfo as CollectionInfo  # noqa: PLC0414 -- a part of what passes
from embank.store.metric import Metric

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Space:
    """Where the vectors of a batch live: only those of one fingerprint may stand beside each other.

    `model` is what `embank.open` needs to load the model again; `None` for a user's own vectors.
    """

    fingerprint: str
    dimension: int
    model: str | None


@dataclass(frozen=True, slots=True)
class Reembedding:
    """A re-embedding that is under way, or was interrupted and can go on.

    Of the collection's `documents`, `remaining` do not have their vectors of `space` yet; `slots` vectors are written.
    """

    collection: str
    generation: int
    space: Space
    dtype: str
    documents: int
    remaining: int
    slots: int
    started: float
    changed: float

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1."""
        return 1 - self.remaining / self.documents if self.documents else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "fraction": self.fraction}


@dataclass(frozen=True, slots=True)
class Upsert:
    """A document with its passages. `digest` covers everything that decides its chunks and vectors."""

    document: Document
    digest: bytes
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True)
class Batch:
    """One atomic change: documents to write whole and documents of which only metadata and origin change.

    `vectors` is float32, shape (total chunks of `upserts`, dimension), in their order, as `metric` wants them
    (`metric.prepared`): it is refused by a collection with another, and `None` for those of a model, which fit any. Or
    they are records of the collection's own codec, shape (total chunks,), which are kept byte for byte.
    """

    root: str | None
    upserts: Sequence[Upsert]
    vectors: Float32 | npt.NDArray[Any]
    relabeled: Sequence[Document] = ()
    metric: Metric | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the store holds under an id: enough to tell whether anything changed."""

    digest: bytes
    metadata: str
    root: str | None
    origin: str | None


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk found: the document's id, the ordinal of the chunk in it, its offsets, its text, and that around it."""

    slot: int
    id: str
    ordinal: int
    start: int
    end: int
    text: str
    metadata: Metadata = field(default_factory=dict)
    before: str = ""
    after: str = ""

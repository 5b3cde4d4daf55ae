"""What users hand in, made into what is stored: documents in each of their forms, vectors of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from embank.errors import InvalidInput
from embank.modelbook import USER_SPACE
from embank.records import Document
from embank.store.metric import Metric, prepared
from embank.store.protocol import Float32, Space

DocumentLike = Document | Mapping[str, Any] | str
"""A `Document`; a mapping with `text` and optionally `id` and `metadata`; or a text, known by the hash of itself."""


def document(given: DocumentLike) -> Document:
    """A document from a mapping, a text or itself; `InvalidInput` says what is wrong with it."""
    if isinstance(given, Document):
        return given
    if isinstance(given, str):
        return Document(_content_id(given), given)
    if not isinstance(given, Mapping):
        raise InvalidInput(f"a document must be a mapping, a Document or a string, not {type(given).__name__}")
    unknown = set(given) - {"id", "text", "metadata"}
    if unknown:
        raise InvalidInput(
            f"a document has the keys id, text and metadata, not {', '.join(sorted(map(str, unknown)))}: "
            f"put further values into metadata"
        )
    text = given.get("text", "")
    name: Any = given.get("id")
    return Document(_content_id(text) if name is None else name, text, given.get("metadata") or {})


def _content_id(text: object) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"a document's text must be a string, not {type(text).__name__}")
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def own_vectors(vectors: object, count: int, metric: Metric) -> Float32:
    """One row for each of `count` documents, shape (count, dimension), as `metric` wants them.

    `InvalidInput` for anything else.
    """
    try:
        rows = np.asarray(vectors, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"vectors must be rows of numbers of one length: {error}") from error
    if rows.ndim != 2 or len(rows) != count or (count and not rows.shape[1]):
        raise InvalidInput(f"vectors must have one row for each of the {count} documents, not the shape {rows.shape}")
    return prepared(metric, rows)


def user_space(name: str, dimension: int) -> Space:
    """The space of a user's own vectors: `user:NAME:DIMENSION`."""
    if not name or ":" in name or not name.isprintable():
        raise InvalidInput(f"{name!r} can't name a space of vectors: use printable characters, no colon")
    return Space(f"{USER_SPACE}{name}:{dimension}", dimension, None)

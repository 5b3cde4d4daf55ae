"""What an exported file says, whatever its format: a head about the collection, and a row for each document.

A row's values are plain: `id`, `text`, `metadata` (an object), `passages` (pairs of offsets in code points) and, with
vectors, `digest` and `vectors` (one record of the head's dtype for each passage). The formats only wrap these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from embank.errors import InvalidInput, SourceError
from embank.records import Chunk, Document
from embank.store.codec import Codec, Stored
from embank.store.documents import check_document
from embank.store.metric import METRICS, Metric
from embank.store.words import LANGUAGES, Language

VERSION = 1
"""The newest version of the form that is read, and the one that is written."""

MARK = "embank_export"
"""The key whose value is the form's version: by it a file is known."""

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Head:
    """Where the rows come from, and what a collection made of them takes over: `metric`, and `language` of its words.

    `language` is `None` in files of an earlier Embank. With `vectors`, `fingerprint`, `dimension` and `dtype` say what
    these are.

    `dtype` is fp16 (little-endian float16 components) or int8 (bytes, then the row's scale as little-endian float32).
    """

    collection: str
    metric: Metric
    vectors: bool
    fingerprint: str | None = None
    dimension: int | None = None
    dtype: str | None = None
    model: str | None = None
    language: Language | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the mark first."""
        return {MARK: VERSION, **asdict(self)}

    def codec(self) -> Codec | None:
        """How the vectors are stored; `None` where there are none."""
        if not self.vectors or self.dtype is None or self.dimension is None:
            return None
        return Codec(self.dtype, self.dimension)


@dataclass(frozen=True, slots=True)
class Item:
    """One document. `records`, shape (len(chunks),), are `None` in a file without vectors; then `digest` is empty."""

    document: Document
    chunks: Sequence[Chunk]
    digest: bytes
    records: Stored | None

    @property
    def text(self) -> str:
        return self.document.text

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory, once."""
        return 2 * len(self.text) + (0 if self.records is None else self.records.nbytes) + 64 * (1 + len(self.chunks))


class BadRow(NamedTuple):
    """Why a row can't be taken: where it stands ("line 12", "row 4"), its column, and what is wrong there."""

    place: str
    column: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}, {self.column}: {self.problem}"


class WrongValue(Exception):
    """A value that can't be taken. Ends the reading of one row; never leaves this room."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(problem)
        self.column = column
        self.problem = problem


def read_head(values: object, *, name: str) -> Head:
    """The head of a file; `SourceError` where it is none, or is of a version that is not known here."""
    version = values.get(MARK) if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping) or not isinstance(version, int) or isinstance(version, bool):
        raise SourceError(
            f"{name} is no export of a collection: `embank index` reads JSON lines and Parquet of any kind",
            path=name,
        )
    if version > VERSION:
        raise SourceError(f"{name} has version {version} of the form, this Embank reads up to {VERSION}: upgrade it")
    kinds = {"collection": str, "metric": str, "vectors": bool}
    if values.get("vectors") is True:
        kinds |= {"fingerprint": str, "dimension": int, "dtype": str}
    given: dict[str, Any] = {key: values.get(key) for key in Head.__slots__}
    wrong = [key for key, kind in kinds.items() if type(given[key]) is not kind]
    if wrong or not isinstance(given["model"], str | None):
        raise SourceError(f"{name}: its head is damaged: {', '.join(wrong) or 'model'}", path=name)
    if given["metric"] not in METRICS:
        raise SourceError(f"{name} is of the metric {given['metric']!r}, which this Embank does not know: upgrade it")
    if given["language"] not in (None, *LANGUAGES):
        raise SourceError(f"{name} has words of {given['language']!r}, which this Embank does not know: upgrade it")
    head = Head(**given)
    try:
        head.codec()
    except InvalidInput as error:
        raise SourceError(f"{name}: its head is damaged: {error}", path=name) from error
    if head.vectors and not 1 <= (head.dimension or 0) <= 1 << 20:
        raise SourceError(f"{name}: its head is damaged: dimension", path=name)
    return head


def item(head: Head, values: Mapping[str, Any], records: Sequence[bytes] | None, digest: bytes | None) -> Item:
    """A row made of its plain values, checked as far as it can be told; `WrongValue` names the column."""
    document = _document(values)
    chunks = _chunks(document.text, values.get("passages"))
    codec = head.codec()
    if codec is None:
        return Item(document, chunks, b"", None)
    if digest is None or len(digest) != DIGEST_BYTES:
        raise WrongValue("digest", f"{DIGEST_BYTES} bytes were due")
    if records is None or len(records) != len(chunks):
        there = "none" if records is None else f"{len(records):,}"
        raise WrongValue("vectors", f"one for each of the {len(chunks):,} passages was due, there are {there}")
    size = codec.record.itemsize
    for number, each in enumerate(records):
        if len(each) != size:
            raise WrongValue("vectors", f"number {number} has {len(each):,} bytes; {head.dtype} takes {size:,}")
    stored: Stored = np.frombuffer(b"".join(records), codec.record)
    damaged = np.flatnonzero(codec.damaged(stored, unit=head.metric == "cosine"))
    if len(damaged):
        raise WrongValue("vectors", f"number {damaged[0]} is not of unit length, or not finite")
    return Item(document, chunks, digest, stored)


def _document(values: Mapping[str, Any]) -> Document:
    for key in ("id", "text"):
        if not isinstance(values.get(key), str):
            raise WrongValue(key, f"is {_kind(values.get(key))}, not a string")
    metadata = values.get("metadata")
    if not isinstance(metadata, dict):
        raise WrongValue("metadata", f"is {_kind(metadata)}, not an object")
    document = Document(values["id"], values["text"], metadata)
    try:
        check_document(document)
    except InvalidInput as error:
        raise WrongValue("metadata" if "metadata" in str(error) else "id or text", str(error)) from error
    return document


def _chunks(text: str, passages: object) -> tuple[Chunk, ...]:
    if not isinstance(passages, list):
        raise WrongValue("passages", f"is {_kind(passages)}, not a list")
    chunks = []
    for number, place in enumerate(passages):
        whole = isinstance(place, list | tuple) and len(place) == 2 and all(type(each) is int for each in place)
        if not whole or not 0 <= place[0] <= place[1] <= len(text):
            raise WrongValue("passages", f"number {number} is no pair of offsets in a text of {len(text):,} characters")
        chunks.append(Chunk(text[place[0] : place[1]], place[0], place[1]))
    return tuple(chunks)


def _kind(value: object) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return "missing" if value is None else kinds.get(type(value), type(value).__name__)

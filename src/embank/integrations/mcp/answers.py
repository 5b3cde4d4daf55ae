"""What an assistant may ask, and what it is answered: bounded on both sides, so that no answer floods its context.

Offsets and lengths count characters (code points), limits of whole answers bytes of UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from embank.records import Hit, StoredDocument
from embank.search.settings import Mode
from embank.store.info import CollectionInfo

MOST_HITS = 50
MOST_CHARACTERS = 20_000
"""Of a document, in one answer."""
SEARCH_BYTES = 48_000
READ_BYTES = 60_000
PASSAGE_BYTES = 4_000
METADATA_BYTES = 2_000
MOST_COLLECTIONS = 200


def _object(value: object) -> object:
    """An object that came as a text, as some assistants send it."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


class Asked(BaseModel):
    """Base of what an assistant sends."""

    model_config = ConfigDict(extra="forbid")


Collection = Annotated[
    str | None,
    Field(max_length=128, description="The collection's name (tool collections). Not needed where there is only one."),
]
Id = Annotated[str, Field(min_length=1, max_length=4_096, description="The document's id, as a hit has it.")]
Many = Annotated[int, Field(ge=1, le=MOST_HITS, description="How many documents.")]
Where = Annotated[
    dict[str, Any] | None,
    BeforeValidator(_object),
    Field(description='Only documents whose metadata match, such as {"year": {"$gte": 2020}}; also $and, $or, $in.'),
]


class SearchAsked(Asked):
    """A question."""

    query: str = Field(min_length=1, max_length=10_000, description="The question, or words, in any language.")
    collection: Collection = None
    k: Many = 5
    where: Where = None
    mode: Annotated[
        Mode | None,
        Field(description="dense: by meaning; lexical: by words; hybrid: both. Best left to the collection."),
    ] = None


class SimilarAsked(Asked):
    """A document, to which others are to be found."""

    id: Id
    collection: Collection = None
    k: Many = 5
    where: Where = None


class ReadAsked(Asked):
    """A part of a document."""

    id: Id
    collection: Collection = None
    start: int = Field(default=0, ge=0, description="The character to begin at: `next` of the page before.")
    length: int = Field(default=6_000, ge=1, le=MOST_CHARACTERS, description="How many characters at most.")


class NothingAsked(Asked):
    """Nothing is to be said."""


class Found(BaseModel):
    """One document with its best passage, which is `document[start:end]`."""

    id: str
    score: float
    text: str
    start: int
    end: int
    metadata: dict[str, Any]
    cut: bool = Field(description="Text or metadata are longer than what is shown; the tool read has all of the text.")


class SearchTold(BaseModel):
    """The best documents, best first."""

    collection: str
    hits: list[Found]
    left_out: int = Field(description="Hits that the answer had no room for.")
    degraded: bool = Field(description="Not everything that there is was searched.")


class ReadTold(BaseModel):
    """A part of a document: `document[start:end]`."""

    collection: str
    id: str
    text: str
    start: int
    end: int
    characters: int = Field(description="Of the whole document.")
    next: int | None = Field(description="The `start` of the next page; null at the document's end.")
    metadata: dict[str, Any]
    metadata_cut: bool


class CollectionTold(BaseModel):
    """A collection. `changed` is in seconds since the epoch."""

    name: str
    documents: int
    passages: int
    text_bytes: int
    changed: float


class CollectionsTold(BaseModel):
    """The collections, by name."""

    collections: list[CollectionTold]
    left_out: int


def search_told(collection: str, found: Sequence[Hit]) -> SearchTold:
    """As many hits as fit into `SEARCH_BYTES`, each cut to what one may take."""
    hits: list[Found] = []
    left = SEARCH_BYTES
    for hit in found:
        shown = _found(hit)
        left -= len(shown.model_dump_json().encode())
        if left < 0 and hits:
            break
        hits.append(shown)
    degraded = any(hit.degraded for hit in found)
    return SearchTold(collection=collection, hits=hits, left_out=len(found) - len(hits), degraded=degraded)


def read_told(collection: str, document: StoredDocument, asked: ReadAsked) -> ReadTold:
    """The part that was asked for, as far as `READ_BYTES` go. Behind the document's end it is empty."""
    text = _cut(document.text[asked.start : asked.start + asked.length], READ_BYTES)
    start = min(asked.start, len(document.text))
    end = start + len(text)
    metadata, cut = _short(document.metadata)
    return ReadTold(
        collection=collection,
        id=document.id,
        text=text,
        start=start,
        end=end,
        characters=len(document.text),
        next=end if end < len(document.text) else None,
        metadata=metadata,
        metadata_cut=cut,
    )


def collections_told(collections: list[CollectionInfo]) -> CollectionsTold:
    """The first `MOST_COLLECTIONS`."""
    shown = [collection_told(each) for each in collections[:MOST_COLLECTIONS]]
    return CollectionsTold(collections=shown, left_out=len(collections) - len(shown))


def collection_told(info: CollectionInfo) -> CollectionTold:
    """What an assistant is told of a collection."""
    return CollectionTold(
        name=info.name,
        documents=info.documents,
        passages=info.chunks,
        text_bytes=info.text_bytes,
        changed=info.changed,
    )


def _found(hit: Hit) -> Found:
    text = _cut(hit.text, PASSAGE_BYTES)
    metadata, cut = _short(hit.metadata)
    return Found(
        id=hit.id,
        score=round(hit.score, 4),
        text=text,
        start=hit.start,
        end=hit.end,
        metadata=metadata,
        cut=cut or len(text) < len(hit.text),
    )


def _short(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The entries that fit into `METADATA_BYTES`, in their order, and whether some did not."""
    kept: dict[str, Any] = {}
    left = METADATA_BYTES
    for key, value in metadata.items():
        size = len(json.dumps([key, value], ensure_ascii=False).encode())
        if size <= left:
            kept[key] = value
            left -= size
    return kept, len(kept) < len(metadata)


def _cut(text: str, limit_bytes: int) -> str:
    if len(text) * 4 <= limit_bytes:
        return text
    return text.encode()[:limit_bytes].decode(errors="ignore")

"""The documents of one collection, in an open bank or on a running server, by the same few methods.

    shelf(bank, "notes")                                  an open bank
    shelf(embank.Client("http://127.0.0.1:8080"), "notes")    a server

What a framework asks for is written against `Shelf`; whether there is a network in between makes no difference to it. A
collection that has never held a document has none: it is no error to ask it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from embank.bank import Bank, LocalCollection
from embank.client.client import Client
from embank.errors import CollectionNotFound, InvalidInput, ServiceError
from embank.records import Document, Hit, Metadata

Where = Mapping[str, Any]
Vector = Sequence[float]
Place = Bank | LocalCollection | Client
"""What a user hands in: an open bank, one of its collections, or a client of a running server."""

EVERYTHING: Where = {"#id": {"$ne": ""}}
"""A filter that every document passes."""

_IDS_AT_ONCE = 500
_DOCUMENTS_AT_ONCE = 250
_BYTES_AT_ONCE = 4 << 20
"""Of texts, metadata and vectors in one request: as JSON they are at most three times that, a server takes 16 MB."""
_NUMBER_BYTES = 24

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept:
    """A document as it is kept, whole."""

    id: str
    text: str
    metadata: Metadata


class Shelf(Protocol):
    """See the module. Thread-safe. Raises what `Collection` raises, of a server `ServiceError`."""

    @property
    def name(self) -> str: ...

    def add(self, documents: Sequence[Document], *, vectors: Sequence[Vector] | None = None, space: str = "") -> None:
        """Upsert by id; durable and visible when it returns. `vectors`, one a document, are stored as `user:SPACE:…`.

        Without them the bank's own engine embeds the texts.
        """

    def get(self, ids: Sequence[str]) -> list[Kept]:
        """Those of these ids that are there, in the order of `ids`, each once."""

    def page(self, *, limit: int, after: str | None = None, where: Where | None = None) -> list[Kept]:
        """Documents in the order of their ids, at most `limit`, which is 1,000 at most."""

    def delete(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> int:
        """Delete by ids or by a filter; how many went. Ids that do not exist are fine."""

    def search(
        self, query: str | None, *, vector: Vector | None, k: int, where: Where | None, **options: Any
    ) -> list[Hit]:
        """The `k` best documents, best first; options are those of `Collection.search`, `mode` among them."""

    def count(self) -> int:
        """Documents in it."""

    def keep_newest(self, count: int) -> None:
        """Delete all but the `count` documents that were written last. A server asks a key of scope admin for it."""

    def metric(self) -> str:
        """What vectors are compared by: cosine, dot or l2."""


def shelf(place: Place, collection: str | None = None) -> Shelf:
    """The collection of that name ("default" unless said) of a bank or server, or the one handed in."""
    if isinstance(place, LocalCollection):
        if collection not in {None, place.name}:
            raise InvalidInput(
                f"this is the collection {place.name!r}, not {collection!r}: hand in its bank, or no name"
            )
        return LocalShelf(place)
    name = "default" if collection is None else collection
    if isinstance(place, Bank):
        return LocalShelf(place.collection(name))
    if isinstance(place, Client):
        return ServedShelf(place, name)
    raise InvalidInput(f"give an open bank, a collection or an embank.Client, not {type(place).__name__}")


def everything(of: Shelf, *, where: Where | None = None, limit: int = 500) -> Iterator[Kept]:
    """Every document that passes the filter, in the order of their ids, `limit` read at a time."""
    after: str | None = None
    while True:
        page = of.page(limit=limit, after=after, where=where)
        yield from page
        if len(page) < limit:
            return
        after = page[-1].id


class LocalShelf:
    """A collection of an open bank; follows `Shelf`."""

    def __init__(self, collection: LocalCollection) -> None:
        self._collection = collection

    @property
    def name(self) -> str:
        return self._collection.name

    def add(self, documents: Sequence[Document], *, vectors: Sequence[Vector] | None = None, space: str = "") -> None:
        if vectors is None:
            self._collection.add(documents)
        else:
            self._collection.add(documents, vectors=vectors, space=space)

    def get(self, ids: Sequence[str]) -> list[Kept]:
        return _in_order(ids, self.page)

    def page(self, *, limit: int, after: str | None = None, where: Where | None = None) -> list[Kept]:
        try:
            found = self._collection.list(limit=limit, after=after, where=where)
        except CollectionNotFound:
            return []
        return [Kept(each.id, each.text, each.metadata) for each in found]

    def delete(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> int:
        try:
            return self._collection.delete(ids, where=where)
        except CollectionNotFound:
            return 0

    def search(
        self, query: str | None, *, vector: Vector | None, k: int, where: Where | None, **options: Any
    ) -> list[Hit]:
        try:
            return self._collection.search(query, vector=vector, k=k, where=where, **options)
        except CollectionNotFound:
            return []

    def count(self) -> int:
        try:
            return self._collection.count()
        except CollectionNotFound:
            return 0

    def keep_newest(self, count: int) -> None:
        self._collection.purge(keep=count)

    def metric(self) -> str:
        info = self._collection.stats()
        return "cosine" if info is None else info.metric


class ServedShelf:
    """A collection on a running server; follows `Shelf`. What is much goes in several requests."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    def add(self, documents: Sequence[Document], *, vectors: Sequence[Vector] | None = None, space: str = "") -> None:
        for some in _portions(documents, vectors):
            asked = [{"id": each.id, "text": each.text, "metadata": dict(each.metadata)} for each in documents[some]]
            if vectors is None:
                self._client.upsert(self.name, asked)
            else:
                self._client.upsert(self.name, asked, vectors=vectors[some], space=space)

    def get(self, ids: Sequence[str]) -> list[Kept]:
        return _in_order(ids, self.page)

    def page(self, *, limit: int, after: str | None = None, where: Where | None = None) -> list[Kept]:
        try:
            found = self._client.page(self.name, limit=limit, after=after, where=where)
        except ServiceError as error:
            return _nothing(error, [])
        return [Kept(each.id, each.text, each.metadata) for each in found.documents]

    def delete(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> int:
        try:
            if ids is None:
                return self._client.delete(self.name, where=where).deleted
            return sum(self._client.delete(self.name, some).deleted for some in _cut(ids))
        except ServiceError as error:
            return _nothing(error, 0)

    def search(
        self, query: str | None, *, vector: Vector | None, k: int, where: Where | None, **options: Any
    ) -> list[Hit]:
        try:
            found = self._client.search(self.name, query, vector=vector, k=k, where=where, **options)
        except ServiceError as error:
            return _nothing(error, [])
        return [
            Hit(each.id, each.score, each.text, each.metadata, each.chunk, each.start, each.end, each.scores)
            for each in found.hits
        ]

    def count(self) -> int:
        try:
            return self._client.count(self.name).count
        except ServiceError as error:
            return _nothing(error, 0)

    def keep_newest(self, count: int) -> None:
        self._client.purge(self.name, keep=count)

    def metric(self) -> str:
        try:
            return self._client.show(self.name).metric
        except ServiceError as error:
            return _nothing(error, "cosine")


class _Page(Protocol):
    def __call__(self, *, limit: int, where: Where) -> list[Kept]: ...


def _in_order(ids: Sequence[str], page: _Page) -> list[Kept]:
    found: dict[str, Kept] = {}
    wanted = list(dict.fromkeys(ids))
    for some in _cut(wanted):
        found.update((each.id, each) for each in page(limit=len(some), where={"#id": {"$in": list(some)}}))
    return [found[each] for each in wanted if each in found]


def _cut(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[start : start + _IDS_AT_ONCE]


def _portions(documents: Sequence[Document], vectors: Sequence[Vector] | None) -> Iterator[slice]:
    """What goes together in one request."""
    row_bytes = _NUMBER_BYTES * len(vectors[0]) if vectors else 0
    start = size = 0
    for place, each in enumerate(documents):
        own = len(each.text.encode("utf-8", "replace")) + len(repr(each.metadata)) + row_bytes
        if place > start and (size + own > _BYTES_AT_ONCE or place - start >= _DOCUMENTS_AT_ONCE):
            yield slice(start, place)
            start, size = place, 0
        size += own
    if start < len(documents):
        yield slice(start, len(documents))


def _nothing(error: ServiceError, instead: T) -> T:
    """What a collection that is not there answers; any other error goes on."""
    if error.fields.get("code") == "collection_not_found":
        return instead
    raise error

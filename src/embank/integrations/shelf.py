"""The documents of one collection, in an open bank or on a running server, as frameworks ask for them.

shelf(bank, "notes")                                      an open bank
shelf(embank.Client("http://127.0.0.1:8080"), "notes")    a server
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embank.bank import Bank, LocalCollection
from embank.client.client import Client
from embank.errors import CollectionNotFound, InvalidInput
from embank.records import Document, Hit, StoredDocument
from embank.remote.bank import ServedBank
from embank.remote.surface import OpenCollection

Where = Mapping[str, Any]
Vector = Sequence[float]
Place = Bank | LocalCollection | Client
"""What a user hands in: an open bank, one of its collections, or a client of a running server."""

EVERYTHING: Where = {"#id": {"$ne": ""}}
"""A filter that every document passes."""

_IDS_AT_ONCE = 500


def shelf(place: Place, collection: str | None = None) -> Shelf:
    """The collection of that name ("default" unless said) of a bank or server, or the one handed in."""
    if isinstance(place, LocalCollection):
        if collection not in {None, place.name}:
            raise InvalidInput(
                f"this is the collection {place.name!r}, not {collection!r}: hand in its bank, or no name"
            )
        return Shelf(place)
    if not isinstance(place, Bank | Client):
        raise InvalidInput(f"give an open bank, a collection or an embank.Client, not {type(place).__name__}")
    bank = ServedBank(place) if isinstance(place, Client) else place
    return Shelf(bank.collection("default" if collection is None else collection))


class Shelf:
    """A collection that may not be there yet: it has no documents then, and it is no error to ask it. Thread-safe.

    Raises what the collection raises, whether there is a network in between or not.
    """

    def __init__(self, collection: OpenCollection) -> None:
        self._collection = collection

    def add(
        self, documents: Sequence[Document], *, vectors: Sequence[Vector] | None = None, space: str = "own"
    ) -> None:
        """Upsert by id; durable and visible when it returns. `vectors`, one a document, are stored as `user:SPACE:…`.

        Without them the bank's own engine embeds the texts.
        """
        self._collection.add(documents, vectors=vectors, space=space)

    def get(self, ids: Sequence[str]) -> list[StoredDocument]:
        """Those of these ids that are there, in the order of `ids`, each once."""
        found: dict[str, StoredDocument] = {}
        wanted = list(dict.fromkeys(ids))
        for start in range(0, len(wanted), _IDS_AT_ONCE):
            some = wanted[start : start + _IDS_AT_ONCE]
            found.update((each.id, each) for each in self._page(limit=len(some), where={"#id": {"$in": some}}))
        return [found[each] for each in wanted if each in found]

    def everything(self, *, where: Where | None = None, limit: int = 500) -> Iterator[StoredDocument]:
        """Every document that passes the filter, in the order of their ids, `limit` read at a time."""
        after: str | None = None
        while True:
            page = self._page(limit=limit, after=after, where=where)
            yield from page
            if len(page) < limit:
                return
            after = page[-1].id

    def delete(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> None:
        """Delete by ids or by a filter. Ids that do not exist are fine."""
        try:
            self._collection.delete(ids, where=where)
        except CollectionNotFound:
            return

    def search(
        self, query: str | None, *, vector: Vector | None, k: int, where: Where | None, **options: Any
    ) -> list[Hit]:
        """The `k` best documents, best first; options are those of `Collection.search`, `mode` among them."""
        try:
            return self._collection.search(query, vector=vector, k=k, where=where, **options)
        except CollectionNotFound:
            return []

    def count(self) -> int:
        """Documents in it."""
        info = self._collection.stats()
        return 0 if info is None else info.documents

    def keep_newest(self, count: int) -> None:
        """Delete all but the `count` documents that were written last. A server asks a key of scope admin for it."""
        self._collection.purge(keep=count)

    def metric(self) -> str:
        """What vectors are compared by: cosine, dot or l2."""
        info = self._collection.stats()
        return "cosine" if info is None else info.metric

    def _page(self, *, limit: int, after: str | None = None, where: Where | None = None) -> list[StoredDocument]:
        try:
            return self._collection.list(limit=limit, after=after, where=where)
        except CollectionNotFound:
            return []

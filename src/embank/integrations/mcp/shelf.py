"""What an assistant reads from: a bank of this process, or one behind a running server. Nothing here writes."""

from __future__ import annotations

from collections.abc import Collection as Names
from dataclasses import asdict
from typing import Any, Protocol

from embank.bank import Bank
from embank.client.client import Client
from embank.client.schemas import CollectionAnswer, DocumentAnswer, HitAnswer, Mode, SearchAnswer
from embank.errors import CollectionNotFound

Where = dict[str, Any]

_NAMED = 20
"""Names that an error lists."""


class Shelf(Protocol):
    """Where documents are read. Blocks; thread-safe; raises `EmbankError`."""

    def collections(self) -> list[CollectionAnswer]: ...

    def search(
        self,
        collection: str,
        query: str | None,
        *,
        like: str | None = None,
        k: int,
        where: Where | None = None,
        mode: Mode | None = None,
    ) -> SearchAnswer: ...

    def document(self, collection: str, name: str) -> DocumentAnswer: ...


class BankShelf:
    """A bank that is open in this process."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def collections(self) -> list[CollectionAnswer]:
        return [CollectionAnswer.model_validate(info.as_dict()) for info in self._bank.collections()]

    def search(
        self,
        collection: str,
        query: str | None,
        *,
        like: str | None = None,
        k: int,
        where: Where | None = None,
        mode: Mode | None = None,
    ) -> SearchAnswer:
        page = self._bank.collection(collection).search_page(query, like=like, k=k, where=where, mode=mode)
        return SearchAnswer(
            hits=[HitAnswer.model_validate(asdict(hit)) for hit in page.hits],
            degraded=any(hit.degraded for hit in page.hits),
            seconds=0,
        )

    def document(self, collection: str, name: str) -> DocumentAnswer:
        [found] = self._bank.collection(collection).get(name)
        return DocumentAnswer.model_validate(found.as_dict())


class ServerShelf:
    """A bank that a running server holds: its model and its memory are used, and none here."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def collections(self) -> list[CollectionAnswer]:
        return self._client.collections().collections

    def search(
        self,
        collection: str,
        query: str | None,
        *,
        like: str | None = None,
        k: int,
        where: Where | None = None,
        mode: Mode | None = None,
    ) -> SearchAnswer:
        return self._client.search(collection, query, like=like, k=k, where=where, mode=mode)

    def document(self, collection: str, name: str) -> DocumentAnswer:
        return self._client.get(collection, [name]).documents[0]


class Chosen:
    """The collections that an assistant is shown: those of `only`, or all."""

    def __init__(self, shelf: Shelf, only: Names[str] = ()) -> None:
        self.shelf = shelf
        self._only = frozenset(only)

    def collections(self) -> list[CollectionAnswer]:
        """By name."""
        return [each for each in self.shelf.collections() if not self._only or each.name in self._only]

    def name(self, asked: str | None) -> str:
        """The collection that is meant: the one asked for, or the only one that there is.

        Raises `CollectionNotFound`, which names those that there are.
        """
        names = [each.name for each in self.collections()]
        if asked in names:
            return asked
        if asked is None and len(names) == 1:
            return names[0]
        known = ", ".join(map(repr, names[:_NAMED])) + (" …" if len(names) > _NAMED else "") or "none yet"
        what = "say which collection" if asked is None else f"there is no collection {asked[:200]!r}"
        raise CollectionNotFound(f"{what}; there are: {known}", name=asked)

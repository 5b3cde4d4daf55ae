"""The collections that an assistant is shown, of a bank that is open or that a running server holds."""

from __future__ import annotations

from collections.abc import Collection as Names

from embank.errors import CollectionNotFound
from embank.remote.surface import OpenBank, OpenCollection
from embank.store.info import CollectionInfo

_NAMED = 20
"""Names that an error lists."""


class Chosen:
    """Those of `only`, or all. Thread-safe; raises `EmbankError`."""

    def __init__(self, bank: OpenBank, only: Names[str] = ()) -> None:
        self._bank = bank
        self._only = frozenset(only)

    def collections(self) -> list[CollectionInfo]:
        """By name."""
        return [each for each in self._bank.collections() if not self._only or each.name in self._only]

    def collection(self, asked: str | None) -> OpenCollection:
        """The collection that is meant: the one asked for, or the only one that there is.

        Raises `CollectionNotFound`, which names those that there are.
        """
        names = [each.name for each in self.collections()]
        if asked in names:
            return self._bank.collection(asked)
        if asked is None and len(names) == 1:
            return self._bank.collection(names[0])
        known = ", ".join(map(repr, names[:_NAMED])) + (" …" if len(names) > _NAMED else "") or "none yet"
        what = "say which collection" if asked is None else f"there is no collection {asked[:200]!r}"
        raise CollectionNotFound(f"{what}; there are: {known}", name=asked)

"""Whether a collection is there, asked by its name, for as long as it isn't dropped under whoever holds it."""

from __future__ import annotations

import sqlite3

from embank.errors import CollectionNotFound, ProtectedCollectionError
from embank.events.kinds import ChangeRefused
from embank.store import collections
from embank.store.collections import Row
from embank.store.shared import Shared
from embank.system.log import get_logger

_log = get_logger(__name__)


class Presence:
    """Of one collection, as one handle of this process sees it. Thread-safe.

    `dropped` is set once, by who drops it, before another thread can make a collection of that name: a handle never
    comes to stand for another collection than the one it was given out for.
    """

    def __init__(self, shared: Shared, name: str) -> None:
        self._shared = shared
        self.name = name
        self.dropped = False

    def check(self) -> None:
        """Raise `CollectionNotFound` where it was dropped in this process."""
        if self.dropped:
            raise CollectionNotFound(
                f"collection {self.name!r} was dropped; bank.collection({self.name!r}) gives a new one of that name",
                name=self.name,
                dropped=True,
            )

    def find(self, connection: sqlite3.Connection) -> Row | None:
        """Its row; `None` before its first document. Raises as `check` does."""
        self.check()
        return collections.find(connection, self.name)

    def refused(self, row: Row, act: str) -> ProtectedCollectionError:
        """What to raise where a protected collection refuses an act; logged and published."""
        _log.warning("protected collection %r refused %s", row.info.name, act)
        self._shared.stream.publish(ChangeRefused(collection=row.info.name, act=act))
        return ProtectedCollectionError(
            f"collection {row.info.name!r} is protected and refuses {act}; new documents may be added",
            collection=row.info.name,
        )

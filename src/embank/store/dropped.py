"""Collections that were dropped: what of them is still to be removed, and the numbers that are not given again.

The table is made with the first that is dropped. A row stays until nothing is left of its collection; that of the
highest number stays for good. So no collection ever has the number of an earlier one, nor its time of creation: views,
kept answers and tombstones of an earlier one can't be taken for its own.

Functions take a connection; those that write must be called inside a transaction.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from embank.store import schema

_TABLE = """
CREATE TABLE IF NOT EXISTS dropped (
    collection INTEGER PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL, generations TEXT NOT NULL,
    is_gone INTEGER NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A collection that was dropped, whose rows and files are still to be removed, as far as there are any."""

    key: int
    name: str
    generations: tuple[int, ...]


def record(
    connection: sqlite3.Connection, key: int, name: str, *, created: float, generations: Iterable[int]
) -> Leftover:
    """Note that a collection is dropped."""
    connection.execute(_TABLE)
    found = Leftover(key, name, tuple(sorted(generations)))
    latest = max(created, marks(connection)[1])
    connection.execute("INSERT INTO dropped VALUES (?, ?, ?, ?, 0)", (key, name, latest, json.dumps(found.generations)))
    return found


def left(connection: sqlite3.Connection) -> list[Leftover]:
    """Those of which something may be left, in the order in which they were made."""
    if not schema.has_table(connection, "dropped"):
        return []
    rows = connection.execute("SELECT collection, name, generations FROM dropped WHERE NOT is_gone ORDER BY collection")
    return [Leftover(key, name, tuple(json.loads(generations))) for key, name, generations in rows]


def forget(connection: sqlite3.Connection, leftover: Leftover) -> None:
    """Note that nothing is left of one."""
    connection.execute("UPDATE dropped SET is_gone = 1 WHERE collection = ?", (leftover.key,))
    connection.execute("DELETE FROM dropped WHERE is_gone AND collection < (SELECT MAX(collection) FROM dropped)")


def marks(connection: sqlite3.Connection) -> tuple[int, float]:
    """A number that no collection was given which is no more, nor any above it; and likewise a time of creation."""
    if not schema.has_table(connection, "dropped"):
        return 0, -math.inf
    key, created = connection.execute("SELECT MAX(collection), MAX(created) FROM dropped").fetchone()
    return (0, -math.inf) if key is None else (int(key), float(created))

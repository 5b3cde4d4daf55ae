"""What a run over a source has seen, and so what of an earlier run is gone.

The ids seen lie in a temporary table on the disk, so a run over millions of documents stays flat in memory.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from embank.store.database import Database

_TABLES = {"ids": "id", "origins": "origin", "held": "origin"}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Gone:
    """Ids of documents that the source no longer gives.

    `vanished`: their origin was not met at all. `surplus`: their origin was read to its end and gives fewer now.
    """

    vanished: tuple[str, ...]
    surplus: tuple[str, ...]


class Sweep:
    """One run over one root, for the bank's writer. Use as a context manager; for one thread."""

    def __init__(self, database: Database, collection: str, root: str) -> None:
        self._database = database
        self._collection = collection
        self._root = root
        self._name = f"run_{next(_numbers)}"
        with database.changing() as connection:
            for table, column in _TABLES.items():
                connection.execute(f"CREATE TEMP TABLE {self._name}_{table} ({column} TEXT PRIMARY KEY) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._database.changing() as connection:
            for table in _TABLES:
                connection.execute(f"DROP TABLE IF EXISTS temp.{self._name}_{table}")

    def see(self, ids: Iterable[str], origins: Iterable[str | None]) -> set[str]:
        """Note ids and origins; return the ids that had been seen before in this run."""
        listed = json.dumps(list(ids), ensure_ascii=False)
        known = json.dumps([origin for origin in origins if origin is not None], ensure_ascii=False)
        with self._database.changing() as connection:
            rows = connection.execute(
                self._own("SELECT id FROM ids WHERE id IN (SELECT value FROM json_each(?))"), (listed,)
            )
            before = {name for (name,) in rows}
            connection.execute(self._own("INSERT OR IGNORE INTO ids SELECT value FROM json_each(?)"), (listed,))
            connection.execute(self._own("INSERT OR IGNORE INTO origins SELECT value FROM json_each(?)"), (known,))
        return before

    def hold(self, origins: Iterable[str]) -> None:
        """Keep what came from `origins`, which could not be read now; a trailing slash holds all below it."""
        with self._database.changing() as connection:
            connection.executemany(
                self._own("INSERT OR IGNORE INTO held VALUES (?)"), [(origin,) for origin in origins]
            )

    def gone(self) -> Gone:
        """What the source no longer gives; to be asked after a run that came to its end."""
        sql = (
            "SELECT documents.name, IFNULL(origin, '') IN (SELECT origin FROM origins) FROM documents "
            "JOIN collections ON collections.id = documents.collection "
            "WHERE collections.name = ? AND root = ? AND documents.name NOT IN (SELECT id FROM ids) "
            "AND NOT EXISTS (SELECT 1 FROM held WHERE held.origin = IFNULL(documents.origin, '') OR "
            "(held.origin LIKE '%/' AND substr(documents.origin, 1, length(held.origin)) = held.origin)) "
            "ORDER BY documents.name"
        )
        with self._database.changing() as connection:
            rows = connection.execute(self._own(sql), (self._collection, self._root)).fetchall()
        vanished = tuple(name for name, read in rows if not read)
        return Gone(vanished, surplus=tuple(name for name, read in rows if read))

    def _own(self, sql: str) -> str:
        """`sql` with this run's tables in place of ids, origins and held."""
        for table in ("ids", "origins", "held"):
            sql = sql.replace(f"FROM {table}", f"FROM temp.{self._name}_{table} AS {table}")
            sql = sql.replace(f"INTO {table} ", f"INTO temp.{self._name}_{table} ")
        return sql

"""The fitted reductions of collections: each a row of `bank.db` with its matrix, and so as durable as documents are.

Covers keeping one, finding one, and throwing away those that nothing refers to. Does not know what a matrix does: its
identity, `version`, is worked out and checked above.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field

from embank.errors import BankDamaged, CollectionNotFound
from embank.store import audit, collections, documents
from embank.store.collections import Row
from embank.store.database import Database
from embank.system.clock import Clock

_TABLE = """
-- A matrix of `dimension` rows and `width` columns that makes the vectors of `source` narrower. Made when first needed.
CREATE TABLE IF NOT EXISTS reductions (
    collection INTEGER NOT NULL, version TEXT NOT NULL, source TEXT NOT NULL, width INTEGER NOT NULL,
    dimension INTEGER NOT NULL, rows INTEGER NOT NULL, explained REAL NOT NULL, fitted REAL NOT NULL,
    checksum BLOB NOT NULL, matrix BLOB NOT NULL, PRIMARY KEY (collection, version))
"""
_COLUMNS = "version, source, width, dimension, rows, explained, fitted, checksum, matrix"


@dataclass(frozen=True, slots=True)
class Reduction:
    """A fitted reduction as kept. `fitted`: when, in seconds since the epoch; `matrix`: little-endian float32."""

    version: str
    source: str
    width: int
    dimension: int
    rows: int
    explained: float
    fitted: float
    matrix: bytes = field(repr=False)

    @property
    def checksum(self) -> bytes:
        """Over everything else."""
        facts = (self.version, self.source, self.width, self.dimension, self.rows, self.explained, self.fitted)
        hashed = hashlib.blake2b(repr(facts).encode(), digest_size=16)
        hashed.update(self.matrix)
        return hashed.digest()


class Reductions:
    """Those of all collections of an open bank. Thread-safe."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def keep(self, name: str, reduction: Reduction) -> None:
        """Keep it for the collection `name`, durably and on record.

        It takes the place of those that neither the vectors in use refer to nor those being made. Raises
        `CollectionNotFound`, `BankReadOnly`.
        """
        with self._database.transaction() as connection:
            row = _existing(connection, name)
            connection.execute(_TABLE)
            _forget_unused(connection, row)
            _insert(connection, row, reduction)
            audit.record(
                connection,
                "keep reduction",
                name,
                at=self._clock.now(),
                version=reduction.version,
                source=reduction.source,
                dimension=reduction.dimension,
            )

    def copy(self, name: str, *, to: str, dtype: str) -> None:
        """Keep for the collection `to` all that there are for `name`. It is made where it does not exist, for `dtype`.

        So that they are there before the first vector that refers to one.
        """
        with self._database.transaction() as connection:
            row = _existing(connection, name)
            target = collections.find(connection, to)
            if target is None:
                metric, now = row.info.metric, self._clock.now()
                target = collections.insert(connection, to, metric=metric, dtype=dtype, now=now)
            collections.check_metric(target.info, row.info.metric)
            for reduction in _all(connection, row):
                _insert(connection, target, reduction)

    def find(self, name: str, version: str) -> Reduction | None:
        """The one of that version, checked against its checksum; `BankDamaged` where it was altered or cut."""
        with self._database.reading() as connection:
            row = collections.find(connection, name)
            return None if row is None else next(_all(connection, row, version=version), None)

    def pending(self, name: str) -> Reduction | None:
        """The one that was fitted last on vectors as they are in use now, and so is still to be applied."""
        with self._database.reading() as connection:
            row = collections.find(connection, name)
            if row is None:
                return None
            found = [each for each in _all(connection, row) if each.source == row.info.fingerprint]
            return found[-1] if found else None


def forget_all(connection: sqlite3.Connection, key: int) -> None:
    """Throw away every reduction of a collection that is deleted; inside its transaction."""
    if _has_table(connection):
        connection.execute("DELETE FROM reductions WHERE collection = ?", (key,))


def _existing(connection: sqlite3.Connection, name: str) -> Row:
    row = collections.find(connection, name)
    if row is None:
        raise CollectionNotFound(f"there is no collection {name!r}", name=name)
    return row


def _insert(connection: sqlite3.Connection, row: Row, it: Reduction) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO reductions (collection, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 -- a constant
        (
            row.key,
            it.version,
            it.source,
            it.width,
            it.dimension,
            it.rows,
            it.explained,
            it.fitted,
            it.checksum,
            it.matrix,
        ),
    )


def _all(connection: sqlite3.Connection, row: Row, *, version: str | None = None) -> Iterator[Reduction]:
    """A collection's reductions, one matrix in memory at a time, each checked."""
    if not _has_table(connection):
        return
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM reductions WHERE collection = ? AND version = IFNULL(?, version) ORDER BY fitted",  # noqa: S608 -- a constant
        (row.key, version),
    )
    for version_, source, width, dimension, fitted_on, explained, fitted, checksum, matrix in rows:
        found = Reduction(version_, source, width, dimension, fitted_on, explained, fitted, matrix)
        if found.checksum != checksum:
            raise BankDamaged(
                f"the fitted reduction {version_} of collection {row.info.name!r} was altered or cut short: restore "
                f"the bank from a backup, or make the vectors anew (`embank reembed`)",
                collection=row.info.name,
                version=version_,
            )
        yield found


def _forget_unused(connection: sqlite3.Connection, row: Row) -> None:
    """Throw away those that no fingerprint names: of the vectors in use, or of a generation that is being filled."""
    named = [row.info.fingerprint]
    if documents.has_generations(connection):
        named += [
            name
            for (name,) in connection.execute(
                "SELECT fingerprint FROM generations WHERE collection = ? AND state = 'filling'", (row.key,)
            )
        ]
    versions = connection.execute("SELECT version FROM reductions WHERE collection = ?", (row.key,)).fetchall()
    unused = [(row.key, version) for (version,) in versions if not any(version in (name or "") for name in named)]
    connection.executemany("DELETE FROM reductions WHERE collection = ? AND version = ?", unused)


def _has_table(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'reductions'").fetchone() is not None

"""The rows of table `collections`: what is recorded of each, and the counters that make `stats` free."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from typing import Any, TypedDict

from embank.errors import BankDamaged, CollectionNotFound, FingerprintMismatch, InvalidInput, MetricMismatch
from embank.store import dropped
from embank.store import metric as metrics
from embank.store.codec import Codec
from embank.store.info import COLUMNS, CollectionInfo, of_row, recorded
from embank.store.metric import Metric
from embank.store.protocol import Space
from embank.store.words import Language

MAX_NAME_CHARACTERS = 128

_GENERATION_SHIFT = 32


class Made(TypedDict, total=False):
    """How a collection is to be made; what is left out or `None` is as the settings, or whoever opened it, say."""

    dtype: str | None
    metric: Metric | None
    language: Language | None


@dataclass(frozen=True, slots=True)
class Row:
    """A collection's row: its key and what is known of it."""

    key: int
    info: CollectionInfo

    @property
    def slots_key(self) -> int:
        """Under which its passages, tombstones and digests are kept: a slot is a number within one generation."""
        return slots_key(self.key, self.info.generation)

    @property
    def sequence(self) -> int:
        return self.info.sequence

    @property
    def slots(self) -> int:
        return self.info.slots

    def codec(self) -> Codec | None:
        """How its vectors are stored; `None` before the first."""
        return None if self.info.dimension is None else Codec(self.info.dtype, self.info.dimension)


def slots_key(key: int, generation: int) -> int:
    """The key of a collection's generation; that of the first is the collection's own."""
    return key | generation << _GENERATION_SHIFT


def check_name(name: str) -> str:
    """`name`, if it can be a collection's: 1 to 128 printable characters, no slash, no leading dot."""
    usable = 0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()
    if not usable or "/" in name or name.startswith(".") or name != name.strip():
        raise InvalidInput(
            f"{name!r} can't name a collection: use 1 to {MAX_NAME_CHARACTERS} printable characters, "
            f"no slash, no dot or blank in front"
        )
    return name


def load(connection: sqlite3.Connection, key: int) -> Row | None:
    """The row of a key."""
    return _row(connection.execute(f"SELECT {COLUMNS} FROM collections WHERE id = ?", (key,)).fetchone())  # noqa: S608 -- a constant


def find(connection: sqlite3.Connection, name: str) -> Row | None:
    """The row of a name."""
    return _row(connection.execute(f"SELECT {COLUMNS} FROM collections WHERE name = ?", (name,)).fetchone())  # noqa: S608 -- a constant


def every(connection: sqlite3.Connection) -> list[Row]:
    """All rows, by name."""
    return [_checked(key, info) for key, info in recorded(connection)]


def insert(connection: sqlite3.Connection, name: str, *, metric: Metric, dtype: str, now: float) -> Row:
    """Make a collection, whose number and time of creation none had that was dropped; inside a transaction."""
    last_key, last_created = dropped.marks(connection)
    created = now if now > last_created else math.nextafter(last_created, math.inf)
    cursor = connection.execute(
        "INSERT INTO collections (id, name, metric, role, protected, dtype, generation, sequence, slots, documents, "
        "chunks, text_bytes, created, changed) "
        "SELECT MAX(IFNULL(MAX(id), 0), ?) + 1, ?, ?, 'local', 0, ?, 0, 0, 0, 0, 0, 0, ?, ? FROM collections",
        (last_key, name, metric, dtype, created, created),
    )
    row = load(connection, int(cursor.lastrowid or 0))
    if row is None:
        raise CollectionNotFound(f"the collection {name!r} vanished while it was made")
    return row


def check_metric(info: CollectionInfo, wanted: Metric | None) -> None:
    """Raise `MetricMismatch` where a collection has another metric than the one wanted."""
    if wanted is not None and info.metric != wanted:
        raise MetricMismatch(
            f"collection {info.name!r} compares vectors by {info.metric}, not by {wanted}, and what its documents were "
            f"stored by can't be changed: leave the metric out, or put them into another collection",
            stored=info.metric,
            offered=wanted,
        )


def settle(connection: sqlite3.Connection, row: Row, space: Space) -> None:
    """Record the space of a collection with its first vectors, or raise if it has another; inside a transaction."""
    info = row.info
    if info.fingerprint is None:
        connection.execute(
            "UPDATE collections SET fingerprint = ?, dimension = ?, model = ? WHERE id = ?",
            (space.fingerprint, space.dimension, space.model, row.key),
        )
    elif info.fingerprint != space.fingerprint:
        raise FingerprintMismatch(
            f"collection {info.name!r} holds vectors of {info.fingerprint}, these are of {space.fingerprint}: "
            f"open it with the model it was made with, use another collection, or `embank reembed` this one",
            stored=info.fingerprint,
            offered=space.fingerprint,
        )


def advance(
    connection: sqlite3.Connection, row: Row, *, slots: int, documents: int, chunks: int, text_bytes: int, now: float
) -> int:
    """Count one change (differences, may be negative) and return the new sequence; inside a transaction."""
    connection.execute(
        "UPDATE collections SET sequence = sequence + 1, slots = slots + ?, documents = documents + ?, "
        "chunks = chunks + ?, text_bytes = text_bytes + ?, changed = ? WHERE id = ?",
        (slots, documents, chunks, text_bytes, now, row.key),
    )
    return row.sequence + 1


def replace_generation(connection: sqlite3.Connection, row: Row, new: Row, *, chunks: int, now: float) -> int:
    """Let the generation of `new` take the place of that of `row`; return the new sequence. Inside a transaction."""
    info = new.info
    connection.execute(
        "UPDATE collections SET generation = ?, fingerprint = ?, dimension = ?, model = ?, dtype = ?, slots = ?, "
        "chunks = ?, sequence = sequence + 1, changed = ? WHERE id = ?",
        (info.generation, info.fingerprint, info.dimension, info.model, info.dtype, info.slots, chunks, now, row.key),
    )
    return row.sequence + 1


def _row(values: tuple[Any, ...] | None) -> Row | None:
    if values is None:
        return None
    return _checked(*of_row(values))


def _checked(key: int, info: CollectionInfo) -> Row:
    if info.metric not in metrics.METRICS:
        raise BankDamaged(
            f"collection {info.name!r} records the metric {info.metric!r}, which this Embank does not know: upgrade "
            f"it, or restore the bank from a backup",
            metric=info.metric,
        )
    return Row(key, info)

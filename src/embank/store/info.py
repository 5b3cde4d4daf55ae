"""What is recorded of a bank's collections, read from one row each. Imports nothing heavy: it is to be quick.

So `embank stats` answers before numpy is imported, whatever the size of the bank.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from embank.store import schema
from embank.system.sqlite import connect, snapshot

Metric = Literal["cosine", "dot", "l2"]
"""How alike two vectors are; `embank.store.metric` has what each means."""
Dtype = Literal["fp16", "int8"]
"""How vectors are kept: half precision, or one byte a component with a scale a row."""

SEGMENT_ROWS = 65_536
"""Vectors in one file of them."""

COLUMNS = (
    "id, name, documents, chunks, sequence, slots, metric, role, protected, dtype, generation, text_bytes, created, "
    "changed, model, fingerprint, dimension"
)


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as recorded: read from one row, whatever its size. Bytes are those on disk."""

    name: str
    documents: int
    chunks: int
    sequence: int
    slots: int
    metric: Metric
    role: str
    protected: bool
    dtype: str
    generation: int
    text_bytes: int
    created: float
    changed: float
    model: str | None = None
    fingerprint: str | None = None
    dimension: int | None = None

    @property
    def dead(self) -> int:
        """Vectors of passages that are gone: a dense search still reads over them until a compaction."""
        return self.slots - self.chunks

    @property
    def vector_bytes(self) -> int:
        """Bytes of its vectors on the disk, the dead ones included."""
        dimension = self.dimension or 0
        # As `codec.Codec` keeps them: half precision, or a byte a component and the scale.
        return self.slots * (2 * dimension if self.dtype == "fp16" else dimension + 4 * bool(dimension))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BankStats:
    """What a bank holds, and the bytes on the disk by part of its folder, the greatest first, then their "total"."""

    collections: tuple[CollectionInfo, ...]
    disk_bytes: dict[str, int]

    @property
    def documents(self) -> int:
        return sum(info.documents for info in self.collections)

    @property
    def chunks(self) -> int:
        return sum(info.chunks for info in self.collections)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "documents": self.documents, "chunks": self.chunks}


def of_row(values: tuple[Any, ...]) -> tuple[int, CollectionInfo]:
    """The key of a collection, and what is recorded of it, from a row of `COLUMNS`."""
    key, name, documents, chunks, sequence, slots, metric, role, protected, *rest = values
    return key, CollectionInfo(name, documents, chunks, sequence, slots, metric, role, bool(protected), *rest)


def recorded(connection: sqlite3.Connection) -> list[tuple[int, CollectionInfo]]:
    """Keys and records of all collections, by name."""
    return [of_row(row) for row in connection.execute(f"SELECT {COLUMNS} FROM collections ORDER BY name")]  # noqa: S608 -- a constant


def glance(root: Path) -> tuple[BankStats, bool]:
    """What the bank at `root` holds, without opening more than its database; and whether there is more to tell.

    That is a re-embedding that is begun, or what was fitted for searches.

    Raises what `schema.check_format` raises, and SQLite's errors.
    """
    schema.check_format(root)
    with closing(connect(root / schema.DATABASE, read_only=True)) as connection, snapshot(connection):
        infos = tuple(info for _, info in recorded(connection))
        more = False
        if schema.has_table(connection, "generations"):
            more = connection.execute("SELECT 1 FROM generations WHERE state = 'filling'").fetchone() is not None
        if schema.has_table(connection, "tunings"):
            more = more or connection.execute("SELECT 1 FROM tunings").fetchone() is not None
    return BankStats(infos, disk_bytes(root)), more


def disk_bytes(root: Path) -> dict[str, int]:
    """What each part of a bank's directory takes on the disk, the greatest first, and the total."""
    parts: dict[str, int] = {}
    for folder, _, files in os.walk(root):
        for file in files:
            path = Path(folder, file)
            try:
                held = path.stat().st_blocks * 512
            except FileNotFoundError:  # a writer replaced it meanwhile
                continue
            first = path.relative_to(root).parts[0]
            name = "bank.db" if first.startswith("bank.db") else first
            parts[name] = parts.get(name, 0) + held
    largest_first = dict(sorted(parts.items(), key=lambda part: -part[1]))
    return {**largest_first, "total": sum(parts.values())}

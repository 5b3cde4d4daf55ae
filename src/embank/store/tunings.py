"""What was fitted for a collection's searches: kept in `bank.db`, on record, and so as durable as documents are.

Covers keeping, finding and taking away. What the values mean is for those above: they are plain JSON here. They were
fitted on vectors of one model, and hold for as long as the collection has those.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from typing import Any

from embank.errors import CollectionNotFound
from embank.store import audit, collections, schema
from embank.store.database import Database
from embank.store.info import CollectionInfo
from embank.system.clock import Clock

_TABLE = """
-- How a hybrid search of a collection weighs its sides, fitted on vectors of `fingerprint`. Made when first needed.
CREATE TABLE IF NOT EXISTS tunings (
    collection INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, fitted REAL NOT NULL, detail TEXT NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is kept: `fusion` are the weights, `facts` what was measured. `fitted`: seconds since the epoch."""

    fingerprint: str
    fusion: dict[str, Any]
    facts: dict[str, Any]
    fitted: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Tunings:
    """Those of all collections of an open bank. Thread-safe."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._seen: dict[str, tuple[tuple[float, int], Tuning | None]] = {}

    def of(self, info: CollectionInfo) -> Tuning | None:
        """What a search of that state of a collection goes by; read once for each state.

        `None` where nothing is kept, or what is was fitted on vectors of another model.
        """
        state = (info.created, info.sequence)
        seen = self._seen.get(info.name)
        if seen is None or seen[0] != state:
            seen = self._seen[info.name] = (state, self.find(info.name))
        tuning = seen[1]
        return tuning if tuning is not None and tuning.fingerprint == info.fingerprint else None

    def find(self, name: str) -> Tuning | None:
        """What is kept for the collection `name`, whether or not it holds for the vectors of now."""
        with self._database.reading() as connection:
            row = collections.find(connection, name)
            return None if row is None else _read(connection, row.key)

    def keep(self, name: str, tuning: Tuning) -> None:
        """Keep it in place of what was kept, durably and on record. Raises `CollectionNotFound`, `BankReadOnly`."""
        now = self._clock.now()
        with self._database.transaction() as connection:
            key = self._changed(connection, name, now)
            connection.execute(_TABLE)
            detail = json.dumps({"fusion": tuning.fusion, "facts": tuning.facts}, ensure_ascii=False)
            connection.execute(
                "INSERT OR REPLACE INTO tunings VALUES (?, ?, ?, ?)", (key, tuning.fingerprint, now, detail)
            )
            audit.record(connection, "tune", name, at=now, fusion=tuning.fusion, **tuning.facts)

    def take_away(self, name: str) -> Tuning | None:
        """Go by the settings again, on record; what was kept, or `None`. Raises as `keep` does."""
        now = self._clock.now()
        with self._database.transaction() as connection:
            row = collections.find(connection, name)
            kept = None if row is None else _read(connection, row.key)
            if kept is None and row is not None:
                return None
            key = self._changed(connection, name, now)
            connection.execute("DELETE FROM tunings WHERE collection = ?", (key,))
            audit.record(connection, "untune", name, at=now, fusion=kept.fusion if kept is not None else None)
            return kept

    def forget(self, name: str) -> None:
        """Let go what is held in memory for a collection that is no more."""
        self._seen.pop(name, None)

    def _changed(self, connection: sqlite3.Connection, name: str, now: float) -> int:
        """Count it as a change of the collection: answers that were given before hold no longer."""
        row = collections.find(connection, name)
        if row is None:
            raise CollectionNotFound(f"there is no collection {name!r} in {self._database.root}", name=name)
        collections.advance(connection, row, slots=0, documents=0, chunks=0, text_bytes=0, now=now)
        return row.key


def _read(connection: sqlite3.Connection, key: int) -> Tuning | None:
    if not schema.has_table(connection, "tunings"):
        return None
    found = connection.execute("SELECT fingerprint, fitted, detail FROM tunings WHERE collection = ?", (key,))
    for fingerprint, fitted, detail in found:
        return Tuning(fingerprint, **json.loads(detail), fitted=fitted)
    return None

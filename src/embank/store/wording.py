"""What `bank.db` records for the lexical view alone: the language of a collection, and passages that got new titles.

Both tables are made when first needed: a bank of English texts without titles that change has neither, and an older
Embank, which knows none of them, can still open it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from embank.store import collections, schema
from embank.store.collections import Row
from embank.store.lexical import Recipe
from embank.store.words import Language, checked

_LANGUAGES = "CREATE TABLE IF NOT EXISTS languages (collection INTEGER PRIMARY KEY, language TEXT NOT NULL)"
_RETITLED = (
    "CREATE TABLE IF NOT EXISTS retitled (collection INTEGER NOT NULL, slot INTEGER NOT NULL, "
    "sequence INTEGER NOT NULL, PRIMARY KEY (collection, slot)) WITHOUT ROWID"
)


def recipe(connection: sqlite3.Connection, key: int, titles: tuple[str, ...]) -> Recipe:
    """How the words of a collection are to be indexed; `titles` are the keys of metadata that hold titles."""
    return Recipe(language(connection, key), titles)


def language(connection: sqlite3.Connection, key: int) -> Language:
    """The language of a collection; English where none is recorded."""
    if not schema.has_table(connection, "languages"):
        return "english"
    found = connection.execute("SELECT language FROM languages WHERE collection = ?", (key,)).fetchone()
    return "english" if found is None else checked(found[0])


def begin(connection: sqlite3.Connection, row: Row, chosen: Language) -> None:
    """Record the language of a collection that was made this moment; inside its transaction."""
    if chosen != "english":
        connection.execute(_LANGUAGES)
        connection.execute("INSERT OR REPLACE INTO languages VALUES (?, ?)", (row.key, chosen))


def change(connection: sqlite3.Connection, row: Row, chosen: Language, *, now: float) -> bool:
    """Give a collection another language: its view is built anew with the next search. Whether it had another."""
    if language(connection, row.key) == chosen:
        return False
    connection.execute(_LANGUAGES)
    connection.execute("INSERT OR REPLACE INTO languages VALUES (?, ?)", (row.key, chosen))
    collections.advance(connection, row, slots=0, documents=0, chunks=0, text_bytes=0, now=now)
    return True


def title(metadata: Mapping[str, Any], titles: Iterable[str]) -> str:
    """What stands under `titles`, as far as it is text; "" where there is none."""
    return "\n".join(value for key in titles if isinstance(value := metadata.get(key), str))


def retitle(connection: sqlite3.Connection, document: int, *, sequence: int) -> None:
    """Let the views put the passages of a document in anew, whose title changed with `sequence`; in its transaction."""
    connection.execute(_RETITLED)
    connection.execute(
        "INSERT OR REPLACE INTO retitled SELECT collection, slot, ? FROM chunks WHERE document = ?",
        (sequence, document),
    )


def retitled_slots(connection: sqlite3.Connection, row: Row, *, after: int, below: int) -> npt.NDArray[np.int64]:
    """Slots < `below` of passages whose titles changed after the sequence `after`."""
    if not schema.has_table(connection, "retitled"):
        return np.empty(0, np.int64)
    rows = connection.execute(
        "SELECT slot FROM retitled WHERE collection = ? AND slot < ? AND sequence > ?", (row.slots_key, below, after)
    )
    return np.fromiter((slot for (slot,) in rows), np.int64)


def forget(connection: sqlite3.Connection, slots_key: int) -> None:
    """Strike out the new titles of a generation that is removed; inside its transaction."""
    if schema.has_table(connection, "retitled"):
        connection.execute("DELETE FROM retitled WHERE collection = ?", (slots_key,))


def texts_at(
    connection: sqlite3.Connection, row: Row, slots: Iterable[int], titles: tuple[str, ...]
) -> Iterator[tuple[int, str, str]]:
    """(slot, passage, title) of those of `slots` that there are."""
    rows = connection.execute(
        "SELECT slot, substr(text, start + 1, end - start), metadata FROM json_each(?) AS wanted "
        "CROSS JOIN chunks ON chunks.collection = ? AND slot = wanted.value JOIN documents ON documents.id = document",
        (json.dumps([int(slot) for slot in slots]), row.slots_key),
    )
    for slot, passage, metadata in rows:
        yield slot, passage, title(json.loads(metadata), titles)

"""Documents as they are held, each with its passages and their slots: what it takes to write them somewhere else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from embank.records import Chunk, Document
from embank.store import documents
from embank.store.collections import Row
from embank.store.predicate import Predicate


@dataclass(frozen=True, slots=True)
class Content:
    """One document. `digest` names what its vectors were made of; `slots` are those of `chunks`, in their order."""

    document: Document
    digest: bytes
    root: str | None
    chunks: tuple[Chunk, ...]
    slots: tuple[int, ...]

    @property
    def text(self) -> str:
        return self.document.text


def of_ids(connection: sqlite3.Connection, row: Row, ids: Iterable[str]) -> dict[str, Content]:
    """The documents of `ids` that exist."""
    listed = json.dumps(list(ids), ensure_ascii=False)
    found = _contents(connection, row, "name IN (SELECT value FROM json_each(?))", [listed])
    return {content.document.id: content for content in found}


def behind(
    connection: sqlite3.Connection, row: Row, after: str | None, *, where: Predicate | None = None
) -> Iterator[Content]:
    """The documents behind the id `after` that match, in the order of ids; one text in memory at a time."""
    matches, values = where or ("1", [])
    return _contents(connection, row, f"name > IFNULL(?, '') AND {matches} ORDER BY name", [after, *values])


def _contents(connection: sqlite3.Connection, row: Row, condition: str, values: list[Any]) -> Iterator[Content]:
    rows = connection.execute(
        f"SELECT id, name, text FROM documents WHERE collection = ? AND {condition}",  # noqa: S608 -- values are bound
        [row.key, *values],
    )
    for key, name, text in rows:
        held = documents.known(connection, row, [name])[name]
        places = connection.execute(
            "SELECT slot, start, end FROM chunks WHERE document = ? AND collection = ? ORDER BY ordinal",
            (key, row.slots_key),
        ).fetchall()
        yield Content(
            Document(name, text, documents.decode_metadata(held.metadata), origin=held.origin),
            held.digest,
            held.root,
            tuple(Chunk(text[start:end], start, end) for _, start, end in places),
            tuple(slot for slot, _, _ in places),
        )

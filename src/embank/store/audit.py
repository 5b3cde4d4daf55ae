"""Acts that must be on record: written in the act's own transaction, so that neither exists without the other.

On whose behalf an act is done is said once, around the work, by who knows it: every row written within names it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

# A property of the thread (or task) that works; not a setting.
_actor: ContextVar[Mapping[str, str] | None] = ContextVar("embank_store_actor", default=None)


@contextmanager
def acting(**actor: str) -> Iterator[None]:
    """Within the block, the acts of this thread or task are on record as done for `actor`."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act: when (seconds since the epoch), what, on which collection, with which details.

    `detail["actor"]` says for whom, where that is known: the service tells the key, its name and the request.
    """

    at: float
    act: str
    collection: str | None
    detail: dict[str, Any]


def record(connection: sqlite3.Connection, act: str, collection: str | None, *, at: float, **detail: Any) -> int:
    """Write one row, inside the transaction of the act; its number."""
    cursor = connection.execute(
        "INSERT INTO audit (at, act, collection, detail) VALUES (?, ?, ?, ?)",
        (at, act, collection, _encoded(detail)),
    )
    return int(cursor.lastrowid or 0)


def amend(connection: sqlite3.Connection, number: int, **detail: Any) -> None:
    """Let the row of an act of several steps say what is done of it now; inside the transaction of the step."""
    connection.execute("UPDATE audit SET detail = ? WHERE id = ?", (_encoded(detail), number))


def read(connection: sqlite3.Connection, *, limit: int) -> list[AuditRow]:
    """The latest rows, newest first."""
    rows = connection.execute("SELECT at, act, collection, detail FROM audit ORDER BY id DESC LIMIT ?", (limit,))
    return [AuditRow(at, act, collection, json.loads(detail)) for at, act, collection, detail in rows]


def _encoded(detail: dict[str, Any]) -> str:
    actor = _actor.get()
    if actor is not None:
        detail = {**detail, "actor": dict(actor)}
    return json.dumps(detail, ensure_ascii=False, default=_plain)


def _plain(value: object) -> list[Any] | dict[Any, Any]:
    """What JSON has no word for in a filter: its sets of values, and mappings of other kinds."""
    if isinstance(value, AbstractSet):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} can't be put on record")

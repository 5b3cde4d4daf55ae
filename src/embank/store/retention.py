"""Which documents a purge takes: by their age, by their number, or by a filter; in SQL, and nothing else."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embank.errors import InvalidInput
from embank.store.collections import Row
from embank.store.predicate import compile_where
from embank.store.where import metadata_path

Chosen = npt.NDArray[Any]
"""shape (n,), fields `document` (its row id) and `sequence` (of its last change), int64: 16 bytes a document."""

_CHOSEN = np.dtype([("document", np.int64), ("sequence", np.int64)])
_UNIX_EPOCH_JULIAN_DAY = 2_440_587.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is to go; `InvalidInput` where that can't be told.

    `older_than_s`: what was last written (or relabeled) longer ago. `keep`: all but the newest so many. Either by the
    time under the metadata's key `by` instead: seconds since the epoch, or an ISO 8601 date or time, in UTC unless it
    says otherwise. `where` alone: what matches it; with one of the others, they only regard what matches it.
    """

    older_than_s: float | None = None
    keep: int | None = None
    by: str | None = None
    where: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        age: object = self.older_than_s
        keep: object = self.keep
        if age is None and keep is None and self.where is None:
            raise InvalidInput("say what is to be purged: older_than, keep or where")
        if age is not None and keep is not None:
            raise InvalidInput("older_than and keep are two rules: purge by one, then by the other")
        if age is not None and not (isinstance(age, int | float) and math.isfinite(age) and age >= 0):
            raise InvalidInput(f"older_than must be a number of seconds that is not negative, not {age!r}")
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 0):
            raise InvalidInput(f"keep must be a whole number that is not negative, not {keep!r}")
        if self.by is not None and age is None and keep is None:
            raise InvalidInput("by names the time that older_than or keep go by: give one of them, too")
        if self.by is not None:
            metadata_path(self.by, what="by")
        if self.where is not None:
            compile_where(self.where)

    @property
    def words(self) -> str:
        """The rule in words."""
        time = "" if self.by is None else f" by {self.by}"
        told = ""
        if self.older_than_s is not None:
            told = f"older than {self.older_than_s:g} s{time}"
        elif self.keep is not None:
            told = f"all but the newest {self.keep:,}{time}"
        matching = "" if self.where is None else "what matches the filter"
        return ", of ".join(part for part in (told, matching) if part)

    def facts(self) -> dict[str, Any]:
        """What of it was given, as plain values."""
        where = None if self.where is None else dict(self.where)
        given = {"older_than_s": self.older_than_s, "keep": self.keep, "by": self.by, "where": where}
        return {key: value for key, value in given.items() if value is not None}


def choose(connection: sqlite3.Connection, row: Row, rule: Rule, *, now: float) -> tuple[Chosen, int]:
    """The documents that go by `rule` at the time `now`, oldest first; and how many can't be told the time of."""
    inner, values = _timed(row, rule)
    if rule.older_than_s is not None:
        sql = f"SELECT id, sequence FROM ({inner}) WHERE at < ? ORDER BY at, sequence, id"  # noqa: S608 -- values bound
        values = [*values, now - rule.older_than_s]
    elif rule.keep is not None:
        newest = "ORDER BY at DESC, sequence DESC, id DESC LIMIT -1 OFFSET ?"
        sql = f"SELECT id, sequence FROM ({inner}) WHERE at IS NOT NULL {newest}"  # noqa: S608 -- values are bound
        values = [*values, rule.keep]
    else:
        sql = f"SELECT id, sequence FROM ({inner}) ORDER BY at, sequence, id"  # noqa: S608 -- values are bound
    chosen = np.fromiter(connection.execute(sql, values), _CHOSEN)
    return (chosen if rule.keep is None else chosen[::-1]), _undated(connection, row, rule)


def _undated(connection: sqlite3.Connection, row: Row, rule: Rule) -> int:
    if rule.by is None:
        return 0
    inner, values = _timed(row, rule)
    (count,) = connection.execute(f"SELECT COUNT(*) FROM ({inner}) WHERE at IS NULL", values).fetchone()  # noqa: S608 -- values are bound
    return int(count)


def _timed(row: Row, rule: Rule) -> tuple[str, list[Any]]:
    """SQL for (id, sequence, at) of the documents that the rule regards, and its values."""
    time, values = "changed", list[Any]()
    if rule.by is not None:
        path = metadata_path(rule.by, what="by")
        # Only what begins as a date does: SQLite reads more as a time, the word "now" among it.
        time = (
            "CASE WHEN json_type(metadata, ?) IN ('integer', 'real') THEN json_extract(metadata, ?) "
            "WHEN json_type(metadata, ?) = 'text' AND json_extract(metadata, ?) GLOB "
            "'[0-9][0-9][0-9][0-9]-[0-9][0-9]-*' "
            f"THEN (julianday(json_extract(metadata, ?)) - {_UNIX_EPOCH_JULIAN_DAY}) * 86400 END"
        )
        values = [path] * 5
    condition, matched = ("1", list[Any]()) if rule.where is None else compile_where(rule.where)
    sql = f"SELECT id, sequence, {time} AS at FROM documents WHERE collection = ? AND {condition}"  # noqa: S608 -- values are bound
    return sql, [*values, row.key, *matched]

"""What filters ask for most, in memory: the values under a key of the metadata, of every passage of a collection.

Reading the metadata of a hundred thousand documents takes SQLite half a second. So the first search that filters by a
key reads the values under it once, and those after that evaluate any condition on them in a millisecond or so; what
was written in between is read then. A column holds for each slot its number, or that of its value, each of which it
holds once. It says
the same as the SQL of `predicate`, from which `tests/store/test_columns.py` finds no difference.

Columns are kept in a cache that the governor knows, of bounded size, the least recently used go first. Where a filter
needs one that finds no room there, or is about ids or texts, SQL answers.
"""

from __future__ import annotations

import json
import math
import sqlite3
import sys
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from embank.cache.weighed import WeighedCache
from embank.store import documents
from embank.store.collections import Row
from embank.store.index.protocol import Mask
from embank.store.where import ID, TEXT, Clause, Condition, Every, Not, as_float, clauses
from embank.system.clock import Clock

Path = tuple[str, ...]
Codes = npt.NDArray[np.int32]

_NOWHERE, _AS_FLOAT = 0, -1
"""The numbers of what is not there, and of what is among the floats."""

_VALUE_BYTES = 150
"""What a value takes beside itself: its places in the table, in the list and in order."""

_CHECK_EVERY = 4_096
_AGAIN_S = 60.0
"""For so long a column that found no room is not tried again."""


class _Opaque:
    """Stands for mappings, and for lists in lists: they are there, and equal nothing."""


_OPAQUE, _TRUE, _FALSE, _MISSING = _Opaque(), _Opaque(), _Opaque(), _Opaque()


class TooLarge(Exception):
    """A column would take more than it may."""


@dataclass(frozen=True, slots=True)
class _Ordered:
    """Values of one kind, ascending, and their numbers; of all those numbered below `upto`."""

    upto: int
    values: list[Any]
    numbers: Codes


@dataclass(slots=True, eq=False)
class Column:
    """The values under one path, of the slots [0, len(codes)), as of `sequence`. For one thread at a time.

    `codes` are int32 numbers of values: 0 where the path leads nowhere, -1 where the value is a number that a float
    holds exactly: then it stands in `floats`, which is empty while there is none.
    """

    sequence: int = -1
    codes: Codes = field(default_factory=lambda: np.zeros(0, np.int32))
    floats: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0, np.float64))
    values: list[Any] = field(default_factory=lambda: [_MISSING])
    bytes: int = 0
    seconds: float = 0.0
    _numbers: dict[Any, int] = field(default_factory=dict)
    _ordered: dict[type, _Ordered] = field(default_factory=dict)

    def reach(self, slots: int) -> None:
        """Cover so many slots."""
        more = slots - len(self.codes)
        if more > 0:
            self.codes = np.concatenate((self.codes, np.zeros(more, np.int32)))
            if len(self.floats):
                self.floats = np.concatenate((self.floats, np.zeros(more)))

    def put(self, slot: int, value: object) -> None:
        """What the value at a slot is now; `_MISSING` where there is none."""
        if isinstance(value, int | float) and _is_float(value):
            if not len(self.floats):
                self.floats = np.zeros(len(self.codes))
            self.floats[slot] = value
            self.codes[slot] = _AS_FLOAT
        else:
            self.codes[slot] = _NOWHERE if value is _MISSING else self._number(_key(value))

    def _number(self, known: Any) -> int:
        code = self._numbers.get(known, 0)
        if not code:
            code = self._numbers[known] = len(self.values)
            self.values.append(known)
            self.bytes += _VALUE_BYTES + sys.getsizeof(known)
            if isinstance(known, tuple):
                self.bytes += sum(map(sys.getsizeof, known))
        return code

    def used_bytes(self) -> int:
        """All of it."""
        return self.bytes + self.codes.nbytes + self.floats.nbytes

    def mask(self, clause: Clause) -> Mask:
        """Of which slots the clause is true, shape (len(codes),)."""
        if clause.operator == "$exists":
            there: Mask = self.codes != _NOWHERE
            return there
        hit = np.zeros(len(self.values) + 1, np.bool_)  # the last is that of all floats
        wanted = clause.value
        if isinstance(wanted, tuple):
            hit[[self._numbers.get(_key(each), 0) for each in wanted]] = True
        elif clause.operator == "$eq":
            hit[self._numbers.get(_key(wanted), 0)] = True
        elif clause.operator == "$contains":
            hit[[number for number, value in enumerate(self.values) if _has(value, _key(wanted))]] = True
        else:
            hit[self._between(clause.operator, wanted)] = True
        hit[_NOWHERE] = False
        found: Mask = hit[self.codes]
        if len(self.floats):
            matching = _floats(self.floats, clause)
            if matching is not None:
                found |= matching & (self.codes == _AS_FLOAT)
        return found

    def _between(self, operator: str, wanted: object) -> Codes:
        ordered = self._in_order(str if isinstance(wanted, str) else float)
        find = bisect_right if operator in ("$gt", "$lte") else bisect_left
        place = find(ordered.values, wanted)
        return ordered.numbers[place:] if operator in ("$gt", "$gte") else ordered.numbers[:place]

    def _in_order(self, kind: type) -> _Ordered:
        """The values of that kind, ascending; brought in order again when asked for after there were new ones."""
        known = self._ordered.get(kind, _Ordered(1, [], np.zeros(0, np.int32)))
        if known.upto < len(self.values):
            kinds = str if kind is str else (int, float)
            fresh = [number for number in range(known.upto, len(self.values)) if isinstance(self.values[number], kinds)]
            values = known.values + [self.values[number] for number in fresh]
            order = sorted(range(len(values)), key=values.__getitem__)
            numbers = np.concatenate((known.numbers, np.array(fresh, np.int32)))[np.array(order, np.int64)]
            known = self._ordered[kind] = _Ordered(len(self.values), [values[place] for place in order], numbers)
        return known


class Columns:
    """Those of one generation of a collection. Thread-safe.

    `kept` is the cache that they share with the columns of others; `name` tells them apart there.
    """

    def __init__(self, kept: WeighedCache[Column], name: str, *, clock: Clock) -> None:
        self._kept = kept
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._paths: set[Path] = set()
        self._refused: dict[Path, float] = {}

    def mask(self, connection: sqlite3.Connection, row: Row, condition: Condition) -> Mask | None:
        """Of which slots of `row` a filter is true, shape (row.slots,); also of dead ones, as they were.

        `None` where it can't be told from columns: then ask SQL.
        """
        paths = {clause.path for clause in clauses(condition)}
        if not self._kept.limit_bytes or any(path[0] in (ID, TEXT) for path in paths):
            return None
        with self._lock:
            now_s = self._clock.monotonic()
            if any(now_s < self._refused.get(path, now_s) for path in paths):
                return None
            columns = {path: self._kept.get(self._key(path)) or Column() for path in paths}
            if any(column.sequence > row.sequence for column in columns.values()):
                return None  # another thread moved it on to a state that this connection doesn't see
            behind = {path: column for path, column in columns.items() if column.sequence < row.sequence}
            if behind and not self._read(connection, row, behind):
                return None
            return evaluated(condition, columns)

    def close(self) -> None:
        """Forget them all."""
        with self._lock:
            for path in self._paths:
                self._kept.forget(self._key(path))
            self._paths.clear()

    def _read(self, connection: sqlite3.Connection, row: Row, columns: dict[Path, Column]) -> bool:
        """Bring columns to the state of `row` and keep them; whether there was room."""
        started_s = self._clock.monotonic()
        try:
            self._catch_up(connection, row, columns)
        except BaseException as error:  # what was changed in part is of no state
            for path in columns:
                self._kept.forget(self._key(path))
            if not isinstance(error, TooLarge):
                raise
            self._refuse(columns)
            return False
        seconds = (self._clock.monotonic() - started_s) / len(columns)
        for path, column in columns.items():
            column.sequence = row.sequence
            column.seconds += seconds
            self._paths.add(path)
            if not self._kept.put(self._key(path), column, column.used_bytes(), seconds=column.seconds):
                self._refuse([path])
        return True

    def _catch_up(self, connection: sqlite3.Connection, row: Row, columns: dict[Path, Column]) -> None:
        for column in columns.values():
            column.reach(row.slots)
        after = min(column.sequence for column in columns.values())
        previous, found = None, dict[Path, Any]()
        for count, (slot, metadata) in enumerate(documents.metadata_since(connection, row, after)):
            if metadata != previous:  # the passages of a document come one after another
                previous, decoded = metadata, json.loads(metadata)
                found = {path: value_under(decoded, path) for path in columns}
            for path, column in columns.items():
                column.put(slot, found[path])
            if not count % _CHECK_EVERY:
                self._check_room(columns.values())
        self._check_room(columns.values())

    def _refuse(self, paths: Iterable[Path]) -> None:
        now_s = self._clock.monotonic()
        self._refused = {path: until_s for path, until_s in self._refused.items() if until_s > now_s}
        self._refused |= dict.fromkeys(paths, now_s + _AGAIN_S)

    def _check_room(self, columns: Iterable[Column]) -> None:
        if sum(column.used_bytes() for column in columns) > self._kept.limit_bytes:
            raise TooLarge

    def _key(self, path: Path) -> bytes:
        return f"{self._name} {json.dumps(path)}".encode()


def evaluated(condition: Condition, columns: Mapping[Path, Column]) -> Mask:
    """Of which slots a filter is true; `columns` are those of all its paths."""
    if isinstance(condition, Clause):
        return columns[condition.path].mask(condition)
    if isinstance(condition, Not):
        return ~evaluated(condition.part, columns)
    parts = [evaluated(part, columns) for part in condition.parts]
    found: Mask = (np.logical_and if isinstance(condition, Every) else np.logical_or).reduce(parts)
    return found


def value_under(metadata: object, path: Path) -> object:
    """The value where the path leads to; what `Column.put` takes for none where it leads nowhere."""
    for key in path:
        if not isinstance(metadata, dict) or key not in metadata:
            return _MISSING
        metadata = metadata[key]
    return metadata


def _key(value: object) -> Any:
    """What stands for a value: equal for equal values of the same type, and unequal to all others."""
    if isinstance(value, list):
        return tuple(_OPAQUE if isinstance(each, list | dict) else _key(each) for each in value)
    if isinstance(value, dict):
        return _OPAQUE
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return as_float(value)
    return value


def _is_float(value: object) -> bool:
    """Whether it is a number that a float holds exactly, and no infinite one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    number = as_float(value)
    return math.isfinite(number) and number == value


def _floats(floats: npt.NDArray[np.float64], clause: Clause) -> Mask | None:
    """Which of them the clause is true of; `None`: of none, or it is not about numbers."""
    wanted = clause.value
    if isinstance(wanted, tuple):
        numbers = [each for each in wanted if _is_float(each)]
        return np.isin(floats, np.array(numbers, np.float64)) if numbers else None
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or clause.operator == "$contains":
        return None
    if clause.operator == "$eq":
        return floats == wanted if _is_float(wanted) else None
    # Python compares integers and floats exactly, numpy does not: seen from the floats around an integer it does.
    nearest = as_float(wanted)
    up = nearest if nearest >= wanted else math.nextafter(nearest, math.inf)
    down = nearest if nearest <= wanted else math.nextafter(nearest, -math.inf)
    compared: Mask = {
        "$gt": floats > down,
        "$gte": floats >= up,
        "$lt": floats < up,
        "$lte": floats <= down,
    }[clause.operator]
    return compared


def _has(value: object, wanted: object) -> bool:
    if isinstance(value, tuple):
        return wanted in value
    return isinstance(value, str) and isinstance(wanted, str) and wanted in value

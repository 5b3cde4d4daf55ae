"""The `where` filter, as it is written and what it means: a mapping of plain values, parsed and checked.

    {"year": 2024}                                    the same as {"year": {"$eq": 2024}}
    {"year": {"$gte": 2020, "$lt": 2024}}             several operators on a key: all must hold
    {"lang": {"$in": ["de", "fr"]}}                   one of these; `$nin`: none of these
    {"tags": {"$contains": "water"}}                  a list that has this member, or a string with this in it
    {"year": {"$exists": true}}                       the key is there, whatever is under it, null too
    {"author": {"name": "Ada"}}                       the key `name` of the mapping under `author`
    {"#document": {"$contains": "silt"}}              the document's text, as in Chroma; `#id` is its id
    {"$or": [{"lang": "en"}, {"$not": {"year": {"$lt": 2000}}}]}

Values are compared with values of their own type only: a number never equals a string, `true` never equals 1, and a
list or a mapping equals nothing: `$contains` asks for a list's members. Strings are compared by code points, upper and
lower case differ. `$ne`, `$nin`, `$not_contains` and `$not` are true of exactly what `$eq`, `$in`, `$contains` and the
filter inside are not, so also of documents that lack the key; all other operators are false of those. A dot in a key is
a part of it.

`Every`, `Some`, `Not` and `Clause` are what a filter is parsed to; `predicate` makes SQL of them, and `columns`
evaluates them over values in memory.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embank.errors import InvalidInput

MAX_DEPTH = 16
MAX_CLAUSES = 1_000
MAX_LISTED = 1_000_000

Scalar = str | int | float | bool | None

ID, TEXT = "#id", "#document"
"""In place of a key: the document's id, and its text."""

ORDERED = ("$gt", "$gte", "$lt", "$lte")
_NEGATED = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}
_OPERATORS = ("$eq", "$ne", *ORDERED, "$in", "$nin", "$contains", "$not_contains", "$exists", "$not")
_GROUPS = ("$and", "$or", "$not")
_OF_TEXT = ("$contains", "$not_contains", "$not")
_OF_ID = ("$eq", "$ne", "$in", "$nin", *ORDERED, "$contains", "$not_contains", "$not")


@dataclass(frozen=True, slots=True)
class Clause:
    """What must hold of the value at `path` (keys, outermost first; or `ID` or `TEXT` alone).

    `operator` is `$eq`, `$in`, `$contains`, `$exists` or one of `ORDERED`. `value` is a scalar, for `$in` a tuple of
    them, for `$exists` always true. Numbers beyond 64 bits are floats: so SQLite reads them back, too.
    """

    path: tuple[str, ...]
    operator: str
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Every:
    """All of `parts`, which are at least one, must hold."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """At least one of `parts` must hold."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """`part` must not hold."""

    part: Condition


Condition = Clause | Every | Some | Not


def parse(where: Mapping[str, Any]) -> Condition:
    """What a filter says; `InvalidInput` names the part that is wrong and what would be right."""
    return _Parser().filter(where, 0)


def clauses(condition: Condition) -> list[Clause]:
    """Every clause in it."""
    if isinstance(condition, Clause):
        return [condition]
    if isinstance(condition, Not):
        return clauses(condition.part)
    return [clause for part in condition.parts for clause in clauses(part)]


def metadata_path(*keys: str, what: str = "where") -> str:
    """Where SQLite's JSON functions find a value of the metadata; `what` begins the message of `InvalidInput`."""
    for key in keys:
        if any(character in '"\\' or character < " " or "\ud800" <= character <= "\udfff" for character in key):
            raise InvalidInput(
                f"{what}: the key {key!r} holds a quote, a backslash, a control character or half a surrogate pair: "
                f"rename it"
            )
    return "$" + "".join(f'."{key}"' for key in keys)


class _Parser:
    """Of one filter."""

    def __init__(self) -> None:
        self._left = MAX_CLAUSES

    def filter(self, where: object, depth: int) -> Condition:
        """A mapping of keys to conditions, and of `$and`, `$or`, `$not` to filters."""
        if not isinstance(where, Mapping) or not where:
            raise InvalidInput(f'where: {where!r} is not a filter: give a mapping such as {{"year": {{"$gte": 2020}}}}')
        _check_depth(depth)
        parts: list[Condition] = []
        for key, value in where.items():
            if key in ("$and", "$or"):
                parts.append(self._group(key, value, depth))
            elif key == "$not":
                parts.append(Not(self.filter(value, depth + 1)))
            elif not isinstance(key, str) or key.startswith("$"):
                raise InvalidInput(f"where: {key!r} is not a key or one of {', '.join(_GROUPS)}{_stray(key)}")
            else:
                parts += self._key((key,), value, depth)
        return _every(parts)

    def _group(self, operator: str, members: object, depth: int) -> Condition:
        if not isinstance(members, list | tuple) or not members:
            raise InvalidInput(f"where: {operator} takes a list of filters that is not empty, not {members!r}")
        parts = tuple(self.filter(member, depth + 1) for member in members)
        if len(parts) == 1:
            return parts[0]
        return Every(parts) if operator == "$and" else Some(parts)

    def _key(self, path: tuple[str, ...], condition: object, depth: int) -> list[Condition]:
        metadata_path(*path)
        _check_depth(depth)
        if not isinstance(condition, Mapping):
            condition = {"$eq": condition}
        if not condition:
            raise InvalidInput(f"where: {_named(path)} has no condition")
        parts: list[Condition] = []
        for operator, value in condition.items():
            if isinstance(operator, str) and not operator.startswith("$") and path[0] not in (ID, TEXT):
                if f"${operator}" in _OPERATORS and not isinstance(value, Mapping):
                    raise InvalidInput(
                        f"where: {operator!r} on {_named(path)}: write '${operator}', or {{{operator!r}: {{'$eq': "
                        f"{value!r}}}}} where a key of that name is meant"
                    )
                parts += self._key((*path, operator), value, depth + 1)
            else:
                parts.append(self._compare(path, operator, value, depth))
        return parts

    def _compare(self, path: tuple[str, ...], operator: object, value: object, depth: int) -> Condition:
        known = {TEXT: _OF_TEXT, ID: _OF_ID}.get(path[0], _OPERATORS)
        if operator not in known:
            raise InvalidInput(
                f"where: {operator!r} on {_named(path)} is not known{_nearest(operator, known)}; "
                f"there are {', '.join(known)}"
            )
        if operator == "$not":
            if not isinstance(value, Mapping):
                raise InvalidInput(
                    f"where: $not on {_named(path)} takes conditions such as {{'$gte': 2020}}, not {value!r}; "
                    f"$ne is for a value"
                )
            return Not(_every(self._key(path, value, depth + 1)))
        self._left -= 1
        if self._left < 0:
            raise InvalidInput(f"where: more than {MAX_CLAUSES} conditions; use $in for a list of values")
        operator = str(operator)
        if operator == "$exists":
            if not isinstance(value, bool):
                raise InvalidInput(f"where: $exists on {_named(path)} takes true or false, not {value!r}")
            clause = Clause(path, "$exists", True)
            return clause if value else Not(clause)
        plain = _NEGATED.get(operator, operator)
        clause = Clause(path, plain, self._value(path, operator, value))
        return clause if plain == operator else Not(clause)

    def _value(self, path: tuple[str, ...], operator: str, value: object) -> Scalar | tuple[Scalar, ...]:
        if operator in ("$in", "$nin"):
            if not isinstance(value, list | tuple | set | frozenset):
                raise InvalidInput(f"where: {operator} on {_named(path)} takes a list of values, not {value!r}")
            if len(value) > MAX_LISTED:
                raise InvalidInput(f"where: {operator} on {_named(path)} takes at most {MAX_LISTED:,} values")
            return tuple(_scalar(path, member) for member in value)
        if operator in ORDERED and (value is None or isinstance(value, bool)):
            raise InvalidInput(f"where: {operator} on {_named(path)} takes a number or a string, not {value!r}")
        if path[0] in (ID, TEXT) and not isinstance(value, str):
            raise InvalidInput(f"where: {operator} on {_named(path)} takes a string, not {value!r}")
        return _scalar(path, value)


def _every(parts: list[Condition]) -> Condition:
    return parts[0] if len(parts) == 1 else Every(tuple(parts))


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidInput(f"where: nested deeper than {MAX_DEPTH} levels")


def _named(path: tuple[str, ...]) -> str:
    return " in ".join(map(repr, reversed(path)))


def _nearest(operator: object, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(operator), known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _stray(key: object) -> str:
    if key in _OPERATORS:
        return f": operators stand under a key, as in {{'year': {{{key!r}: …}}}}"
    return _nearest(key, _GROUPS)


def _scalar(path: tuple[str, ...], value: object) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"where: the value of {_named(path)} is not valid Unicode: {value!r}") from error
        if "\0" in value:  # SQLite's JSON functions end a string there
            raise InvalidInput(f"where: the value of {_named(path)} holds a NUL character, which can't be compared")
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return int(value)
    if isinstance(value, int | float):
        number = as_float(value)
        if not math.isfinite(number):
            raise InvalidInput(f"where: {_named(path)} is compared with {value!r}; give a finite number")
        return number
    hint = "; $in asks for one of several values, $contains for a list's member" if isinstance(value, list) else ""
    raise InvalidInput(
        f"where: {_named(path)} is compared with {value!r}; give a string, a number, true, false or null{hint}"
    )


def as_float(value: float) -> float:
    """As SQLite reads a number that is beyond 64 bits: infinite where it is beyond what a float holds."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf

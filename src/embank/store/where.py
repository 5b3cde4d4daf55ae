"""The `where` filter over metadata, compiled to SQL with every value bound.

    {"year": 2024}                                    the same as {"year": {"$eq": 2024}}
    {"year": {"$gte": 2020, "$lt": 2024}}             several operators on a key: all must hold
    {"$or": [{"lang": "en"}, {"lang": {"$in": ["de", "fr"]}}]}

Values are compared with values of their own type only: a number never equals a string, `true` never equals 1. A key
that a document lacks satisfies `$ne` and `$nin` and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from embank.errors import InvalidInput

MAX_DEPTH = 16
MAX_CLAUSES = 1_000

_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = ("$eq", "$ne", *_COMPARISONS, "$in", "$nin", "$and", "$or")

Predicate = tuple[str, list[Any]]
"""An SQL expression over the column `metadata`, never NULL, and the values to bind."""


def compile_where(where: Mapping[str, Any]) -> Predicate:
    """The predicate for a filter; `InvalidInput` names the part that is wrong."""
    budget = [MAX_CLAUSES]
    return _mapping(where, 0, budget)


def _mapping(where: object, depth: int, budget: list[int]) -> Predicate:
    if not isinstance(where, Mapping) or not where:
        raise InvalidInput(f'where: {where!r} is not a filter: give a mapping such as {{"year": {{"$gte": 2020}}}}')
    if depth > MAX_DEPTH:
        raise InvalidInput(f"where: nested deeper than {MAX_DEPTH} levels")
    parts = []
    for key, value in where.items():
        if key in ("$and", "$or"):
            parts.append(_group(key, value, depth, budget))
        elif not isinstance(key, str) or key.startswith("$"):
            raise InvalidInput(f"where: {key!r} is not a key or one of $and, $or")
        else:
            parts.append(_key(key, value, budget))
    return _join(parts, "AND")


def _group(operator: str, members: object, depth: int, budget: list[int]) -> Predicate:
    if not isinstance(members, list | tuple) or not members:
        raise InvalidInput(f"where: {operator} takes a list of filters that is not empty, not {members!r}")
    parts = [_mapping(member, depth + 1, budget) for member in members]
    return _join(parts, "AND" if operator == "$and" else "OR")


def _join(parts: list[Predicate], word: str) -> Predicate:
    if len(parts) == 1:
        return parts[0]
    return "(" + f" {word} ".join(sql for sql, _ in parts) + ")", [value for _, values in parts for value in values]


def metadata_path(key: str, *, what: str = "where") -> str:
    """Where SQLite's JSON functions find a key of the metadata; `what` begins the message of `InvalidInput`."""
    if any(character in '"\\' or character < " " for character in key):
        raise InvalidInput(f"{what}: the key {key!r} holds a quote, a backslash or a control character: rename it")
    return f'$."{key}"'


def _key(key: str, condition: object, budget: list[int]) -> Predicate:
    path = metadata_path(key)
    if not isinstance(condition, Mapping):
        condition = {"$eq": condition}
    if not condition:
        raise InvalidInput(f"where: {key!r} has no condition")
    budget[0] -= len(condition)
    if budget[0] < 0:
        raise InvalidInput(f"where: more than {MAX_CLAUSES} conditions; use $in for a list of values")
    return _join([_compare(key, path, operator, value) for operator, value in condition.items()], "AND")


def _compare(key: str, path: str, operator: object, value: object) -> Predicate:
    if operator == "$eq":
        return _equal(key, path, value)
    if operator == "$ne":
        sql, values = _equal(key, path, value)
        return f"NOT {sql}", values
    if operator in _COMPARISONS:
        return _order(key, path, str(operator), value)
    if operator in ("$in", "$nin"):
        sql, values = _member(key, path, str(operator), value)
        return (sql if operator == "$in" else f"NOT {sql}"), values
    raise InvalidInput(f"where: {operator!r} on {key!r} is not known; there are {', '.join(_OPERATORS)}")


def _equal(key: str, path: str, value: object) -> Predicate:
    if value is None:
        return "IFNULL(json_type(metadata, ?) = 'null', 0)", [path]
    if isinstance(value, bool):
        return "IFNULL(json_type(metadata, ?) = ?, 0)", [path, "true" if value else "false"]
    types, bound = _typed(key, value)
    return f"IFNULL(json_type(metadata, ?) IN {types} AND json_extract(metadata, ?) = ?, 0)", [path, path, bound]


def _order(key: str, path: str, operator: str, value: object) -> Predicate:
    if value is None or isinstance(value, bool):
        raise InvalidInput(f"where: {operator} on {key!r} takes a number or a string, not {value!r}")
    types, bound = _typed(key, value)
    sql = f"json_type(metadata, ?) IN {types} AND json_extract(metadata, ?) {_COMPARISONS[operator]} ?"
    return f"IFNULL({sql}, 0)", [path, path, bound]


def _member(key: str, path: str, operator: str, value: object) -> Predicate:
    if not isinstance(value, list | tuple | set | frozenset):
        raise InvalidInput(f"where: {operator} on {key!r} takes a list of values, not {value!r}")
    parts: list[Predicate] = []
    numbers: list[str | int | float] = []
    texts: list[str | int | float] = []
    for member in value:
        if member is None or isinstance(member, bool):
            part = _equal(key, path, member)
            if part not in parts:
                parts.append(part)
        else:
            types, bound = _typed(key, member)
            (texts if types == "('text')" else numbers).append(bound)
    for types, members in (("('integer','real')", numbers), ("('text')", texts)):
        if members:
            # One bound value whatever the list's length: SQLite limits the number of parameters.
            kind = f"json_type(metadata, ?) IN {types}"
            sql = f"{kind} AND json_extract(metadata, ?) IN (SELECT value FROM json_each(?))"  # noqa: S608 -- bound
            parts.append((f"IFNULL({sql}, 0)", [path, path, json.dumps(members, ensure_ascii=False)]))
    return _join(parts, "OR") if parts else ("0", [])


def _typed(key: str, value: object) -> tuple[str, str | int | float]:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"where: the value of {key!r} is not valid Unicode: {value!r}") from error
        if "\0" in value:  # SQLite's JSON functions end a string there
            raise InvalidInput(f"where: the value of {key!r} holds a NUL character, which can't be compared")
        return "('text')", value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InvalidInput(f"where: {key!r} is compared with {value!r}; give a finite number")
        # Metadata beyond 64 bits is read back by SQLite as a float, too.
        return "('integer','real')", value if -(2**63) <= value < 2**63 else float(value)
    raise InvalidInput(f"where: {key!r} is compared with {value!r}; give a string, a number, true, false or null")

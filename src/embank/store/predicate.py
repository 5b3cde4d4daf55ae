"""Filters as SQL over the table `documents`, with every value bound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from embank.store.where import ID, ORDERED, TEXT, Clause, Condition, Every, Not, Scalar, Some, metadata_path, parse

Predicate = tuple[str, list[Any]]
"""An SQL expression over the columns of `documents`, never NULL, and the values to bind."""

_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_NUMBERS, _TEXTS = "('integer','real')", "('text')"


def compile_where(where: Mapping[str, Any]) -> Predicate:
    """The predicate for a filter; `InvalidInput` names the part that is wrong."""
    return of(parse(where))


def of(condition: Condition) -> Predicate:
    """The predicate for what a filter was parsed to."""
    if isinstance(condition, Not):
        sql, values = of(condition.part)
        return f"NOT {sql}", values
    if isinstance(condition, Every | Some):
        return _join([of(part) for part in condition.parts], "AND" if isinstance(condition, Every) else "OR")
    if condition.path[0] in (ID, TEXT):
        return _of_column("name" if condition.path[0] == ID else "text", condition)
    return _of_metadata(condition)


def _join(parts: list[Predicate], word: str) -> Predicate:
    """In halves of halves: SQLite bounds the depth of an expression."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    (left, before), (right, behind) = _join(parts[:half], word), _join(parts[half:], word)
    return f"({left} {word} {right})", [*before, *behind]


def _of_column(column: str, clause: Clause) -> Predicate:
    if isinstance(clause.value, tuple):
        texts = [value for value in clause.value if isinstance(value, str)]
        return f"({column} IN (SELECT value FROM json_each(?)))", [_json(texts)]  # noqa: S608 -- bound
    if clause.operator == "$contains":
        return f"(instr({column}, ?) > 0)", [clause.value]
    return f"({column} {_SIGNS.get(clause.operator, '=')} ?)", [clause.value]


def _of_metadata(clause: Clause) -> Predicate:
    path = metadata_path(*clause.path)
    if isinstance(clause.value, tuple):
        return _one_of(path, clause.value)
    if clause.operator == "$exists":
        return "(json_type(metadata, ?) IS NOT NULL)", [path]
    if clause.operator == "$contains":
        return _contains(path, clause.value)
    if clause.value is None or isinstance(clause.value, bool):
        return "IFNULL(json_type(metadata, ?) = ?, 0)", [path, _literal(clause.value)]
    sign = _SIGNS[clause.operator] if clause.operator in ORDERED else "="
    sql = f"json_type(metadata, ?) IN {_types(clause.value)} AND json_extract(metadata, ?) {sign} ?"
    return f"IFNULL({sql}, 0)", [path, path, clause.value]


def _one_of(path: str, listed: tuple[Scalar, ...]) -> Predicate:
    literals = sorted({_literal(value) for value in listed if value is None or isinstance(value, bool)})
    texts = [value for value in listed if isinstance(value, str)]
    numbers = [value for value in listed if isinstance(value, int | float) and not isinstance(value, bool)]
    parts: list[Predicate] = [("IFNULL(json_type(metadata, ?) = ?, 0)", [path, literal]) for literal in literals]
    for types, members in ((_NUMBERS, numbers), (_TEXTS, texts)):
        if members:
            # One bound value whatever the list's length: SQLite limits the number of parameters.
            kind = f"json_type(metadata, ?) IN {types}"
            sql = f"{kind} AND json_extract(metadata, ?) IN (SELECT value FROM json_each(?))"  # noqa: S608 -- bound
            parts.append((f"IFNULL({sql}, 0)", [path, path, _json(members)]))
    return _join(parts, "OR") if parts else ("0", [])


def _contains(path: str, value: Scalar) -> Predicate:
    """A list with that member; or where that is a string, a string which it stands in."""
    if value is None or isinstance(value, bool):
        member, wanted = "type = ?", list[Any]([_literal(value)])
    else:
        member, wanted = f"type IN {_types(value)} AND value = ?", [value]
    found = f"EXISTS (SELECT 1 FROM json_each(metadata, ?) WHERE {member})"  # noqa: S608 -- bound
    values: list[Any] = [path, path, *wanted]
    inside = ""
    if isinstance(value, str):
        inside, values = " WHEN 'text' THEN instr(json_extract(metadata, ?), ?) > 0", [*values, path, value]
    return f"(CASE json_type(metadata, ?) WHEN 'array' THEN {found}{inside} ELSE 0 END)", values


def _types(value: float | str) -> str:
    return _TEXTS if isinstance(value, str) else _NUMBERS


def _literal(value: bool | None) -> str:  # noqa: FBT001 -- a value that is compared with
    return "null" if value is None else "true" if value else "false"


def _json(members: list[Any]) -> str:
    return json.dumps(members, ensure_ascii=False)

"""Filters mean the same in SQL, in columns and in plain Python."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embank.errors import InvalidInput
from embank.store.columns import Column, evaluated, value_under
from embank.store.predicate import compile_where
from embank.store.where import MAX_CLAUSES, MAX_DEPTH, MAX_LISTED, clauses, parse

KEYS = st.sampled_from(["year", "lang", "a b", "ü", "x.y", "odd", "", "'", "$."[1:]])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.sampled_from(["1", "true", "null", "en", "n"]),
)
ORDERED = SCALARS.filter(lambda value: value is not None and not isinstance(value, bool))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=5,
)
METADATA = st.dictionaries(KEYS, VALUES, max_size=4)
OPERATORS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("$eq", "$ne", "$contains", "$not_contains"), SCALARS),
        **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), ORDERED),
        **dict.fromkeys(("$in", "$nin"), st.lists(SCALARS, max_size=4)),
        "$exists": st.booleans(),
    },
).filter(lambda made: 0 < len(made) < 4)
CONDITIONS = st.recursive(
    st.one_of(SCALARS, OPERATORS),
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, min_size=1, max_size=2),
        st.fixed_dictionaries({"$not": OPERATORS}),
    ),
    max_leaves=3,
)
FILTERS = st.recursive(
    st.dictionaries(KEYS, CONDITIONS, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=6,
)


CONNECTION = sqlite3.connect(":memory:", isolation_level=None)
CONNECTION.execute("CREATE TABLE documents (name TEXT, metadata TEXT, text TEXT)")


def in_sql(where: Mapping[str, Any], metadata: Mapping[str, Any], *, name: str = "a1", text: str = "") -> bool:
    sql, values = compile_where(where)
    CONNECTION.execute("DELETE FROM documents")
    CONNECTION.execute("INSERT INTO documents VALUES (?, ?, ?)", (name, json.dumps(metadata, ensure_ascii=False), text))
    (count,) = CONNECTION.execute(f"SELECT COUNT(*) FROM documents WHERE {sql}", values).fetchone()
    return bool(count)


def in_columns(where: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[bool]:
    condition = parse(where)
    columns = {clause.path: Column() for clause in clauses(condition)}
    for path, column in columns.items():
        column.reach(len(rows))
        for slot, metadata in enumerate(rows):
            column.put(slot, value_under(json.loads(json.dumps(metadata)), path))
    found: list[bool] = evaluated(condition, columns).tolist()
    return found


def kind(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return repr(value)
    return "number" if isinstance(value, int | float) else type(value).__name__


def in_python(where: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    return all(clause_holds(key, condition, metadata) for key, condition in where.items())


def clause_holds(key: str, condition: Any, metadata: Any) -> bool:
    if key == "$and":
        return all(in_python(each, metadata) for each in condition)
    if key == "$or":
        return any(in_python(each, metadata) for each in condition)
    if key == "$not":
        return not in_python(condition, metadata)
    there = isinstance(metadata, dict) and key in metadata
    return value_holds(condition, there, metadata[key] if there else None)


def value_holds(condition: Any, there: bool, value: Any) -> bool:  # noqa: FBT001 -- beside the value
    if not isinstance(condition, Mapping):
        condition = {"$eq": condition}
    return all(
        holds(operator, wanted, there, value) if operator.startswith("$") else clause_holds(operator, wanted, value)
        for operator, wanted in condition.items()
    )


def holds(operator: str, wanted: Any, there: bool, value: Any) -> bool:  # noqa: FBT001 -- beside the value
    if operator == "$not":
        return not value_holds(wanted, there, value)
    negated = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}.get(operator)
    if negated is not None:
        return not holds(negated, wanted, there, value)
    if operator == "$exists":
        return there == bool(wanted)
    return there and compared(operator, wanted, value)


def compared(operator: str, wanted: Any, value: Any) -> bool:
    if operator == "$eq":
        return equal(wanted, value)
    if operator == "$in":
        return any(equal(each, value) for each in wanted)
    if operator == "$contains":
        inside = isinstance(value, list) and any(equal(wanted, each) for each in value)
        return inside or (isinstance(value, str) and isinstance(wanted, str) and wanted in value)
    if kind(value) != kind(wanted):
        return False
    have, want = (value.encode(), wanted.encode()) if isinstance(wanted, str) else (number(value), number(wanted))
    return bool({"$gt": have > want, "$gte": have >= want, "$lt": have < want, "$lte": have <= want}[operator])


def equal(wanted: object, value: object) -> bool:
    return kind(value) == kind(wanted) and number(value) == number(wanted)


def number(value: Any) -> Any:
    """Integers beyond 64 bits are read back by SQLite as floats."""
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


@settings(max_examples=300)
@given(FILTERS, st.lists(METADATA, min_size=1, max_size=4))
def test_sql_and_columns_agree_with_plain_python(where: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    wanted = [in_python(where, metadata) for metadata in rows]
    assert [in_sql(where, metadata) for metadata in rows] == wanted
    assert in_columns(where, rows) == wanted


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ({"#document": {"$contains": "silt"}}, True),
        ({"#document": {"$contains": "Silt"}}, False),
        ({"#document": {"$not_contains": "silt"}}, False),
        ({"#document": {"$not": {"$contains": "gold"}}}, True),
        ({"#id": "rivers/a1"}, True),
        ({"#id": {"$in": ["a2", "rivers/a1"]}}, True),
        ({"#id": {"$nin": ["a2", "rivers/a1"]}}, False),
        ({"#id": {"$gt": "rivers/"}, "year": 2024}, True),
        ({"#id": {"$contains": "a1"}}, True),
    ],
)
def test_ids_and_texts(where: dict[str, Any], *, wanted: bool) -> None:
    assert in_sql(where, {"year": 2024}, name="rivers/a1", text="Rivers carry silt.") is wanted


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "is not a filter"),
        ([], "is not a filter"),
        ({"$nor": [{"a": 1}]}, "'\\$nor' is not a key or one of .*did you mean \\$or"),
        ({"$gte": 2020}, "operators stand under a key"),
        ({"$not": [{"a": 1}]}, "is not a filter"),
        ({"a": {"$not": 5}}, "takes conditions .* \\$ne is for a value"),
        ({"a": {"$exists": 1}}, "takes true or false, not 1"),
        ({"a": {"$contain": "x"}}, "did you mean \\$contains\\?"),
        ({"a": {"$eql": 1}}, "did you mean \\$eq\\?"),
        ({"a": {"gte": 2020}}, "write '\\$gte'"),
        ({"a": {"$contains": ["x"]}}, "give a string, a number"),
        ({"a": {"b": {"$lt": None}}}, "'b' in 'a' takes a number"),
        ({"#document": "x"}, "'\\$eq' on '#document' is not known"),
        ({"#document": {"$contains": 5}}, "takes a string, not 5"),
        ({"#id": 5}, "takes a string, not 5"),
        ({"a": 10**400}, "give a finite number"),
        ({"a": {"$in": range(3)}}, "takes a list"),
        ({"a": {"$regex": "x"}}, "'\\$regex' on 'a' is not known"),
        ({"a": {}}, "'a' has no condition"),
        ({"$or": []}, "list of filters that is not empty"),
        ({"$and": {"a": 1}}, "list of filters"),
        ({"a": [1, 2]}, "give a string, a number, true, false or null; \\$in asks for one of"),
        ({"a": {"$gt": True}}, "takes a number or a string"),
        ({"a": {"$gt": None}}, "takes a number or a string"),
        ({"a": {"$in": "abc"}}, "takes a list"),
        ({"a": math.nan}, "give a finite number"),
        ({"a": "\ud800"}, "not valid Unicode"),
        ({"a": {"$in": ["\0"]}}, "NUL character"),
        ({'a"b': 1}, "holds a quote"),
        ({"a\0": 1}, "control character"),
        ({1: 1}, "1 is not a key"),
        ({"a": {"$in": [{"b": 1}]}}, "give a string, a number"),
    ],
)
def test_bad_filters_are_named(where: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        compile_where(where)


@pytest.mark.parametrize(
    "around", [lambda deep: {"$and": [deep]}, lambda deep: {"$not": deep}, lambda deep: {"b": deep}]
)
def test_depth_is_bounded(around: Any) -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(10_000):
        deep = around(deep)
    with pytest.raises(InvalidInput, match="nested deeper"):
        compile_where(deep)


def test_conditions_are_bounded_and_so_many_are_answered() -> None:
    most = {"$or": [{"a": number} for number in range(MAX_CLAUSES)]}
    assert in_sql(most, {"a": MAX_CLAUSES - 1})
    assert in_sql({"$and": [{"a": {"$ne": number}} for number in range(MAX_CLAUSES)]}, {"a": -1})
    deepest: dict[str, Any] = {"a": 1}
    for _ in range(MAX_DEPTH):
        deepest = {"$not": deepest}
    assert in_sql(deepest, {"a": 1}) is (MAX_DEPTH % 2 == 0)
    with pytest.raises(InvalidInput, match="use \\$in"):
        compile_where({"$or": [{"a": number} for number in range(MAX_CLAUSES + 1)]})


def test_a_list_of_a_hundred_thousand_values() -> None:
    where = {"n": {"$in": list(range(100_000))}}
    assert in_sql(where, {"n": 99_999})
    assert not in_sql(where, {"n": 100_000})
    assert in_columns(where, [{"n": 99_999}, {"n": 100_000}]) == [True, False]
    with pytest.raises(InvalidInput, match="at most 1,000,000 values"):
        compile_where({"n": {"$in": [0] * (MAX_LISTED + 1)}})


def test_integers_beyond_64_bits_compare_as_floats() -> None:
    assert in_sql({"n": {"$gt": 2**70}}, {"n": 2**71})
    assert not in_sql({"n": {"$gt": 2**71}}, {"n": 2**70})


def test_values_are_bound_never_spliced() -> None:
    assert not in_sql({"a": "' OR 1=1 --"}, {"a": "x"})
    assert not in_sql({"a') OR 1=1 --": "x"}, {"a": "x"})

"""`where` means the same in SQL as in plain Python."""

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
from embank.store.where import MAX_CLAUSES, MAX_DEPTH, compile_where

KEYS = st.sampled_from(["year", "lang", "a b", "ü", "x.y", "$odd"[1:]])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4),
    st.sampled_from(["1", "true", "null", "en"]),
)
ORDERED = SCALARS.filter(lambda value: value is not None and not isinstance(value, bool))
METADATA = st.dictionaries(KEYS, st.one_of(SCALARS, st.lists(SCALARS, max_size=2)), max_size=4)
CONDITIONS = st.one_of(
    SCALARS,
    st.fixed_dictionaries({"$eq": SCALARS}),
    st.fixed_dictionaries({"$ne": SCALARS}),
    st.fixed_dictionaries({}, optional={"$gt": ORDERED, "$gte": ORDERED, "$lt": ORDERED, "$lte": ORDERED}).filter(bool),
    st.fixed_dictionaries({"$in": st.lists(SCALARS, max_size=4)}),
    st.fixed_dictionaries({"$nin": st.lists(SCALARS, max_size=4)}),
)
FILTERS = st.recursive(
    st.dictionaries(KEYS, CONDITIONS, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=6,
)


def in_sql(where: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    sql, values = compile_where(where)
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE t (metadata TEXT)")
        connection.execute("INSERT INTO t VALUES (?)", (json.dumps(metadata, ensure_ascii=False),))
        (count,) = connection.execute(f"SELECT COUNT(*) FROM t WHERE {sql}", values).fetchone()
    finally:
        connection.close()
    return bool(count)


def kind(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return repr(value)
    return "number" if isinstance(value, int | float) else type(value).__name__


def in_python(where: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    return all(clause_holds(key, condition, metadata) for key, condition in where.items())


def clause_holds(key: str, condition: Any, metadata: Mapping[str, Any]) -> bool:
    if key == "$and":
        return all(in_python(each, metadata) for each in condition)
    if key == "$or":
        return any(in_python(each, metadata) for each in condition)
    if not isinstance(condition, Mapping):
        condition = {"$eq": condition}
    return all(holds(key, operator, wanted, metadata) for operator, wanted in condition.items())


def holds(key: str, operator: str, wanted: Any, metadata: Mapping[str, Any]) -> bool:
    if operator in ("$eq", "$ne"):
        return equal(key, wanted, metadata) == (operator == "$eq")
    if operator in ("$in", "$nin"):
        return any(equal(key, each, metadata) for each in wanted) == (operator == "$in")
    if key not in metadata or kind(metadata[key]) != kind(wanted):
        return False
    have = metadata[key].encode() if isinstance(wanted, str) else metadata[key]
    want = wanted.encode() if isinstance(wanted, str) else wanted
    return bool({"$gt": have > want, "$gte": have >= want, "$lt": have < want, "$lte": have <= want}[operator])


def equal(key: str, wanted: object, metadata: Mapping[str, Any]) -> bool:
    return key in metadata and kind(metadata[key]) == kind(wanted) and metadata[key] == wanted


@settings(max_examples=400)
@given(FILTERS, METADATA)
def test_agrees_with_plain_python(where: dict[str, Any], metadata: dict[str, Any]) -> None:
    assert in_sql(where, metadata) == in_python(where, metadata)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "is not a filter"),
        ([], "is not a filter"),
        ({"$not": {"a": 1}}, "'\\$not' is not a key"),
        ({"a": {"$regex": "x"}}, "'\\$regex' on 'a' is not known"),
        ({"a": {}}, "'a' has no condition"),
        ({"$or": []}, "list of filters that is not empty"),
        ({"$and": {"a": 1}}, "list of filters"),
        ({"a": [1, 2]}, "give a string, a number"),
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


def test_depth_and_clauses_are_bounded() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(MAX_DEPTH + 1):
        deep = {"$and": [deep]}
    with pytest.raises(InvalidInput, match="nested deeper"):
        compile_where(deep)
    with pytest.raises(InvalidInput, match="use \\$in"):
        compile_where({"$or": [{"a": number} for number in range(MAX_CLAUSES + 1)]})


def test_a_list_of_a_hundred_thousand_values() -> None:
    where = {"n": {"$in": list(range(100_000))}}
    assert in_sql(where, {"n": 99_999})
    assert not in_sql(where, {"n": 100_000})


def test_integers_beyond_64_bits_compare_as_floats() -> None:
    assert in_sql({"n": {"$gt": 2**70}}, {"n": 2**71})
    assert not in_sql({"n": {"$gt": 2**71}}, {"n": 2**70})


def test_values_are_bound_never_spliced() -> None:
    assert not in_sql({"a": "' OR 1=1 --"}, {"a": "x"})
    assert not in_sql({"a') OR 1=1 --": "x"}, {"a": "x"})

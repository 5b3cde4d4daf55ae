"""LlamaIndex's metadata filters as `where`. Imports nothing of it: what is read are values and their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from embank.errors import InvalidInput
from embank.integrations.shelf import Where

_COMPARED = {
    "==": "$eq", "!=": "$ne", ">": "$gt", "<": "$lt", ">=": "$gte", "<=": "$lte", "in": "$in", "nin": "$nin",
    "text_match": "$contains", "contains": "$contains",
}  # fmt: skip


def matching(filters: Any) -> Where:
    """The `where` of a `MetadataFilters` that is not empty, nested ones as well.

    Raises `InvalidInput` for an operator that has none, and for one given a value that is not for it.
    """
    parts = [matching(each) if hasattr(each, "filters") else _one(each) for each in filters.filters]
    if not parts:
        raise InvalidInput("a group of filters is empty")
    condition = "and" if filters.condition is None else filters.condition.value
    if condition == "not":  # none of them
        return {"$not": {"$or": parts}}
    return {f"${condition}": parts}


def _one(given: Any) -> Where:
    operator, key, value = given.operator.value, given.key, given.value
    if operator in _COMPARED:
        return {key: {_COMPARED[operator]: value}}
    several: dict[str, Callable[[], Where]] = {
        "any": lambda: {"$or": [{key: {"$contains": each}} for each in _listed(given)]},
        "all": lambda: {"$and": [{key: {"$contains": each}} for each in _listed(given)]},
        "is_empty": lambda: {"$or": [{key: {"$exists": False}}, {key: {"$in": [None, ""]}}]},
    }
    if operator not in several:
        raise InvalidInput(
            f"the filter operator {operator!r} on {key!r} is none of Embank's: upper and lower case always differ; "
            f"search with mode text_search, which sees no difference, or keep the value in lower case as well",
            operator=operator,
        )
    return several[operator]()


def _listed(given: Any) -> list[Any]:
    if not isinstance(given.value, list) or not given.value:
        raise InvalidInput(f"the filter operator {given.operator.value!r} on {given.key!r} takes a list of values")
    return given.value

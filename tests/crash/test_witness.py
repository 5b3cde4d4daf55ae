"""What the watcher of a run holds against a bank."""

from __future__ import annotations

from typing import Any

import pytest
from tests.crash.small import Value
from tests.crash.witness import Witness

BOTH = {"d1": 1, "d2": 1}


def did(number: int, *act: Any) -> list[dict[str, Any]]:
    return [{"do": number, "act": list(act)}, {"did": number, "operations": 1, "seconds": 0.0}]


def after(*lines: dict[str, Any]) -> Witness:
    witness = Witness()
    witness.read([*did(0, "upsert", BOTH), *lines])
    return witness


def test_what_was_acknowledged_has_to_be_there() -> None:
    witness = after()
    assert witness.problems({"d1": (1, 1), "d2": (1, 1)}) == []
    assert [each.partition(":")[0] for each in witness.problems({"d1": (9, 9)})] == ["lost", "lost"]


def test_what_was_deleted_must_not_come_back() -> None:
    witness = after(*did(1, "delete", ["d1"]))
    assert witness.problems({"d2": (1, 1)}) == []
    assert [each.partition(":")[0] for each in witness.problems({"d1": (1, 1), "d2": (1, 1)})] == ["came back"]


def test_an_act_that_was_cut_short_is_there_as_a_whole_or_not_at_all() -> None:
    witness = after({"do": 1, "act": ["upsert", {"d1": 2, "d2": 2}]})
    old: Value = (1, 1)
    new: Value = (2, 2)
    assert witness.problems({"d1": old, "d2": old}) == witness.problems({"d1": new, "d2": new}) == []
    (problem,) = witness.problems({"d1": new, "d2": old})
    assert problem.startswith("half-written")


def test_a_collection_that_was_being_dropped_is_there_or_gone() -> None:
    witness = after({"do": 1, "act": ["drop"]})
    before: dict[str, Value] = {"d1": (1, 1), "d2": (1, 1)}
    assert witness.problems(before) == witness.problems({}) == []
    (problem,) = witness.problems({"d1": (1, 1)})
    assert problem.startswith("half-written")


def test_of_an_act_cut_short_nothing_is_said_where_a_later_one_was_too() -> None:
    """A purge goes in steps: what it took says nothing of the deletion before it."""
    witness = after({"do": 1, "act": ["delete", ["d1", "d2"]]})
    witness.read([{"do": 1, "act": ["purge", 1]}])
    assert witness.problems({"d2": (1, 1)}) == []


@pytest.mark.parametrize("earlier", [["delete", ["d1"]], ["purge", 1]])
def test_of_an_act_cut_short_nothing_is_said_where_an_earlier_one_may_have_done_some_of_it(earlier: list[Any]) -> None:
    witness = after({"do": 1, "act": earlier})
    witness.read([{"do": 1, "act": ["delete", ["d1", "d2"]]}])
    assert witness.problems({"d2": (1, 1)}) == []


def test_parts_of_an_ingestion_are_acknowledged_one_by_one() -> None:
    witness = after({"do": 1, "act": ["ingest", {"d1": 3, "d2": 3}]}, {"part": 1, "ids": ["d1"]})
    assert witness.problems({"d1": (3, 3), "d2": (1, 1)}) == []
    assert witness.problems({"d1": (3, 3), "d2": (3, 3)}) == []
    assert len(witness.problems({"d1": (1, 1), "d2": (1, 1)})) == 1


def test_a_backup_may_hold_what_another_was_about_to_be_told() -> None:
    witness = after({"do": 1, "act": ["upsert", {"d1": 2}]}, *did(2, "backup", "copy"), *did(3, "delete", ["d2"]))
    assert witness.copies["copy"].state == {"d1": {(1, 1), (2, 2)}, "d2": {(1, 1)}}

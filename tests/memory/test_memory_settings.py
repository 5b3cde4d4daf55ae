"""The memory section: its marks must make sense."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from embank.memory.settings import Settings


def test_the_budget_is_a_part_of_the_machine_unless_told_otherwise() -> None:
    assert Settings().budget.resolve(1000) == 600
    assert Settings.model_validate({"budget": "512MB"}).budget.resolve(1000) == 512_000_000


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"release_until": 0.7}, "release_until"),
        ({"trim_at": 0.69, "trim_until": 0.5}, "trim_at"),
        ({"refuse_until": 0.6}, "refuse_until"),
        ({"refuse_at": 1.5}, "refuse_at"),
        ({"cooldown_s": -1}, "cooldown_s"),
        ({"budget": "0MB"}, "budget"),
    ],
)
def test_marks_that_contradict_each_other_are_refused_by_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Settings.model_validate(values)

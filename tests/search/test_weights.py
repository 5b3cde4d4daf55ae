"""What can be set about fusion, and what is chosen for one query."""

from __future__ import annotations

import json

import pytest

from embank.search.weights import Fusion

SIGNALS = {"deviation": 0.1, "ceiling": 20.0, "coverage": 0.8}


def test_a_fusion_survives_json() -> None:
    for fusion in (Fusion(), Fusion("coverage", None, 2.5), Fusion("ranks", 0.25)):
        assert Fusion.from_dict(json.loads(json.dumps(fusion.as_dict()))) == fusion


def test_what_is_no_fusion_is_refused() -> None:
    whole = Fusion().as_dict()
    for wrong in (
        {"method": "guess"}, {"dense_weight": 1.5}, {"dense_weight": "much"}, {"coverage": float("nan")},
        {"coverage": None}, {"coverage": -1}, {"coverage": "x"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"fusion|weight|coverage|could not convert"):
            Fusion.from_dict(whole | wrong)
    with pytest.raises(ValueError, match="no fusion"):
        Fusion.from_dict({})


def test_full_coverage_is_worth_so_many_deviations_of_the_dense_side() -> None:
    weights = Fusion("coverage", coverage=3.0).weigh(SIGNALS, spread=0.2)
    assert weights.lexical * 1.0 == pytest.approx(3.0 * weights.dense * SIGNALS["deviation"])
    assert weights.dense + weights.lexical == pytest.approx(1)
    assert weights.signals == SIGNALS
    assert Fusion("coverage", coverage=0.0).weigh(SIGNALS, spread=0.2).dense == 1


def test_a_fixed_weight_is_one_of_standardised_sides() -> None:
    weights = Fusion(dense_weight=0.3).weigh(SIGNALS, spread=0.2)
    assert weights.dense * 0.1 / (weights.lexical * 0.2) == pytest.approx(0.3 / 0.7)
    assert Fusion(dense_weight=1.0).weigh(SIGNALS, spread=0.2).dense == 1
    assert Fusion(dense_weight=0.0).weigh(SIGNALS, spread=0.2).dense == 0


def test_without_a_weight_the_dense_side_has_the_greater_one() -> None:
    assert Fusion().weigh(SIGNALS, spread=0.2) == Fusion(dense_weight=0.8).weigh(SIGNALS, spread=0.2)


def test_dense_scores_that_are_all_the_same_leave_it_to_the_words() -> None:
    assert Fusion().weigh(SIGNALS | {"deviation": 0.0}, spread=0.2).lexical > 0


def test_ranks_weigh_the_same_unless_told() -> None:
    assert Fusion("ranks").weigh(SIGNALS, spread=0.2).dense == 0.5
    assert Fusion("ranks", 0.7).weigh(SIGNALS, spread=0.2).dense == 0.7

"""What can be set about fusion, and what is chosen for one query."""

from __future__ import annotations

import json

import pytest

from embank.search.weights import BIAS, Fusion


def test_a_fusion_survives_json() -> None:
    fusion = Fusion("scores", None, {BIAS: 0.5, "coverage": -1.25})
    assert Fusion.from_dict(json.loads(json.dumps(fusion.as_dict()))) == fusion
    assert Fusion.from_dict(json.loads(json.dumps(Fusion("ranks", 0.25).as_dict()))) == Fusion("ranks", 0.25)


def test_what_is_no_fusion_is_refused() -> None:
    whole = Fusion().as_dict()
    for wrong in (
        {"method": "guess"}, {"dense_weight": 1.5}, {"dense_weight": "much"}, {"coefficients": {BIAS: float("nan")}},
        {"coefficients": None}, {"coefficients": {BIAS: "x"}},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"fusion|weight|could not convert"):
            Fusion.from_dict(whole | wrong)
    with pytest.raises(ValueError, match="no fusion"):
        Fusion.from_dict({})


def test_a_fixed_weight_holds_whatever_the_signals_say() -> None:
    weights = Fusion(dense_weight=0.3).weigh({"coverage": 100.0})
    assert (weights.dense, weights.lexical) == (0.3, 0.7)
    assert Fusion("ranks").weigh({"coverage": 100.0}).dense == 0.5


def test_signals_move_the_weight_and_are_told() -> None:
    fusion = Fusion(coefficients={BIAS: 0.0, "coverage": -1.0})
    even, covered = fusion.weigh({"coverage": 0.0, "unknown": 9.0}), fusion.weigh({"coverage": 2.0})
    assert even.dense == 0.5
    assert covered.dense < 0.2
    assert covered.signals == {"coverage": 2.0}
    assert covered.dense + covered.lexical == 1
    assert fusion.weigh({"coverage": 1e9}).dense == pytest.approx(0, abs=1e-12)

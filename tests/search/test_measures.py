"""Measures of rankings: the same as ir-measures has them, and intervals that hold what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embank.search.measures import Estimate, judge, names, table

RANKINGS = [["a", "b", "c"], ["c", "a"], [], ["x", "y", "z", "b", "a"], ["a"]]
RIGHT = [frozenset("a"), frozenset("ab"), frozenset("a"), frozenset("ab"), frozenset("abcdefghijklm")]


def test_by_hand() -> None:
    found = judge(["x", "a", "y", "b"], frozenset({"a", "b", "c"}), 4)
    assert found["recall@1"] == 0
    assert found["recall@4"] == pytest.approx(2 / 3)
    assert found["MRR@4"] == 0.5
    gain, most = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["nDCG@4"] == pytest.approx(gain / most)
    assert judge(["x", "a"], frozenset("a"), 1) == {"recall@1": 0, "MRR@1": 0, "nDCG@1": 0}
    assert tuple(judge(["a"], frozenset("a"), 1)) == names(1)
    assert tuple(judge(["a"], frozenset("a"), 10)) == names(10)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_as_ir_measures_has_them(k: int) -> None:
    ir = pytest.importorskip("ir_measures", reason="pip install ir-measures")
    qrels = {str(number): dict.fromkeys(right, 1) for number, right in enumerate(RIGHT)}
    run = {
        str(number): {name: float(len(ranking) - place) for place, name in enumerate(ranking)}
        for number, ranking in enumerate(RANKINGS)
    }
    wanted = {"recall@1": ir.R @ 1, f"recall@{k}": ir.R @ k, f"MRR@{k}": ir.RR @ k, f"nDCG@{k}": ir.nDCG @ k}
    ours = table(RANKINGS, RIGHT, k)
    for name, measure in wanted.items():
        theirs = dict.fromkeys(map(str, range(len(RANKINGS))), 0.0)
        theirs |= {each.query_id: each.value for each in ir.iter_calc([measure], qrels, run)}
        assert list(theirs.values()) == pytest.approx(ours[name].tolist()), name


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        found = Estimate.of(chance.random(60))
        assert found.low < found.value < found.high
        inside += found.low <= 0.5 <= found.high
    assert 180 <= inside <= 199
    assert Estimate.of(np.ones(5)) == Estimate(1.0, 1.0, 1.0)
    values = chance.random(50)
    assert Estimate.of(values) == Estimate.of(values)

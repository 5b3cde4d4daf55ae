"""Fusing scores."""

from __future__ import annotations

import numpy as np

from embank.search.fuse import candidates, fuse
from embank.search.weights import Fusion
from embank.store.index.protocol import Neighbors


def neighbors(slots: list[int], scores: list[float]) -> Neighbors:
    return Neighbors(np.array(slots, np.int64), np.array(scores, np.float32))


def test_candidates_of_both_sides_once() -> None:
    found = candidates(neighbors([5, 1], [0.9, 0.8]), neighbors([1, 7], [3.0, 2.0]))
    assert found.tolist() == [1, 5, 7]


def test_a_passage_that_both_sides_like_wins() -> None:
    slots = np.array([1, 5, 7])
    fused = fuse(
        slots,
        np.array([0.8, 0.9, 0.1], np.float32),
        neighbors([1, 7], [3.0, 2.9]),
        fusion=Fusion(dense_weight=0.5),
        depth=100,
    )
    assert fused.slots[0] == 1
    assert fused.lexical.tolist() == [3.0, 0.0, np.float32(2.9)] or fused.lexical[0] == 3.0


def test_weights_at_their_ends_are_the_sides_alone() -> None:
    slots = np.array([1, 2, 3])
    dense = np.array([0.1, 0.2, 0.3], np.float32)
    lexical = neighbors([1, 2, 3], [9.0, 5.0, 1.0])
    assert fuse(slots, dense, lexical, fusion=Fusion(dense_weight=1.0), depth=9).slots.tolist() == [3, 2, 1]
    assert fuse(slots, dense, lexical, fusion=Fusion(dense_weight=0.0), depth=9).slots.tolist() == [1, 2, 3]


def test_missing_from_a_full_list_scores_as_its_last() -> None:
    slots = np.array([1, 2, 3])
    dense = np.zeros(3, np.float32)
    full = fuse(slots, dense, neighbors([1, 2], [4.0, 2.0]), fusion=Fusion(dense_weight=0.5), depth=2)
    short = fuse(slots, dense, neighbors([1, 2], [4.0, 2.0]), fusion=Fusion(dense_weight=0.5), depth=50)
    assert dict(zip(full.slots.tolist(), full.lexical.tolist(), strict=True)) == {1: 4.0, 2: 2.0, 3: 2.0}
    assert dict(zip(short.slots.tolist(), short.lexical.tolist(), strict=True)) == {1: 4.0, 2: 2.0, 3: 0.0}


def test_equal_scores_add_nothing_and_no_nan() -> None:
    slots = np.array([1, 2])
    fused = fuse(slots, np.full(2, 0.3, np.float32), neighbors([], []), fusion=Fusion(dense_weight=0.8), depth=10)
    assert fused.score.tolist() == [0.0, 0.0]
    assert fused.slots.tolist() == [1, 2]
    nothing = fuse(
        np.empty(0, np.int64), np.empty(0, np.float32), neighbors([], []), fusion=Fusion(dense_weight=0.8), depth=10
    )
    assert len(nothing.slots) == 0

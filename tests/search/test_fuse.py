"""Fusing scores."""

from __future__ import annotations

import numpy as np
import pytest

from embank.search.fuse import candidates, ceiling, fuse
from embank.search.weights import Fusion
from embank.store.index.protocol import Neighbors
from embank.store.lexical import LexicalIndex, Mark


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
        ceiling=10.0,
    )
    assert fused.slots[0] == 1
    assert fused.lexical.tolist() == [3.0, 0.0, np.float32(2.9)] or fused.lexical[0] == 3.0


def test_weights_at_their_ends_are_the_sides_alone() -> None:
    slots = np.array([1, 2, 3])
    dense = np.array([0.1, 0.2, 0.3], np.float32)
    lexical = neighbors([1, 2, 3], [9.0, 5.0, 1.0])
    assert fuse(slots, dense, lexical, fusion=Fusion(dense_weight=1.0), depth=9, ceiling=10.0).slots.tolist() == [
        3,
        2,
        1,
    ]
    assert fuse(slots, dense, lexical, fusion=Fusion(dense_weight=0.0), depth=9, ceiling=10.0).slots.tolist() == [
        1,
        2,
        3,
    ]


def test_missing_from_a_full_list_scores_as_its_last() -> None:
    slots = np.array([1, 2, 3])
    dense = np.zeros(3, np.float32)
    full = fuse(slots, dense, neighbors([1, 2], [4.0, 2.0]), fusion=Fusion(dense_weight=0.5), depth=2, ceiling=10.0)
    short = fuse(slots, dense, neighbors([1, 2], [4.0, 2.0]), fusion=Fusion(dense_weight=0.5), depth=50, ceiling=10.0)
    assert dict(zip(full.slots.tolist(), full.lexical.tolist(), strict=True)) == {1: 4.0, 2: 2.0, 3: 2.0}
    assert dict(zip(short.slots.tolist(), short.lexical.tolist(), strict=True)) == {1: 4.0, 2: 2.0, 3: 0.0}


def test_equal_scores_add_nothing_and_no_nan() -> None:
    slots = np.array([1, 2])
    fused = fuse(
        slots, np.full(2, 0.3, np.float32), neighbors([], []), fusion=Fusion(dense_weight=0.8), depth=10, ceiling=10.0
    )
    assert fused.score.tolist() == pytest.approx([0.24, 0.24])
    assert fused.slots.tolist() == [1, 2]
    nothing = fuse(
        np.empty(0, np.int64),
        np.empty(0, np.float32),
        neighbors([], []),
        fusion=Fusion(dense_weight=0.8),
        depth=10,
        ceiling=10.0,
    )
    assert len(nothing.slots) == 0


def test_a_score_is_the_weighted_mean_of_the_metric_and_of_coverage() -> None:
    slots = np.array([1, 2, 3])
    dense = np.array([0.6, 0.2, 0.4], np.float32)
    fused = fuse(slots, dense, neighbors([2, 3], [5.0, 2.5]), fusion=Fusion(), depth=9, ceiling=10.0)
    assert fused.weights is not None
    for slot, score in zip(fused.slots.tolist(), fused.score.tolist(), strict=True):
        similar, covered = {1: (0.6, 0.0), 2: (0.2, 0.5), 3: (0.4, 0.25)}[slot]
        assert score == pytest.approx(fused.weights.dense * similar + fused.weights.lexical * covered)
    assert fused.weights.signals["coverage"] == pytest.approx(0.5)


def test_words_that_cover_little_of_the_question_move_little() -> None:
    slots = np.array([1, 2])
    dense = np.array([0.6, 0.4], np.float32)
    words = neighbors([2], [5.0])
    assert fuse(slots, dense, words, fusion=Fusion("coverage"), depth=9, ceiling=5.0).slots.tolist() == [2, 1]
    assert fuse(slots, dense, words, fusion=Fusion("coverage"), depth=9, ceiling=50.0).slots.tolist() == [1, 2]


def test_ranks_are_fused_as_published() -> None:
    slots = np.array([1, 2, 3])
    dense = np.array([0.9, 0.8, 0.1], np.float32)
    fused = fuse(slots, dense, neighbors([3, 2], [9.0, 1.0]), fusion=Fusion("ranks"), depth=9, ceiling=10.0)
    expected = {1: 0.5 / 61, 2: 0.5 / 62 + 0.5 / 62, 3: 0.5 / 63 + 0.5 / 61}
    assert dict(zip(fused.slots.tolist(), fused.score.tolist(), strict=True)) == pytest.approx(expected)
    assert fused.slots.tolist() == sorted(expected, key=lambda slot: -expected[slot])


def test_rare_words_make_the_ceiling_and_unknown_ones_raise_it_most() -> None:
    common, rare, unknown = (ceiling([("word", count)], 1_000) for count in (900, 3, 0))
    assert 0 < common < rare < unknown
    assert ceiling([("a", 900), ("b", 3)], 1_000) == pytest.approx(common + rare)
    assert ceiling([], 1_000) == 0
    assert ceiling([("word", 5)], 3) > 0  # counts of a moment later than that of the passages


def test_no_passage_scores_above_the_ceiling_and_one_full_of_the_words_comes_near() -> None:
    index = LexicalIndex(None, writer_bytes=15_000_000)
    texts = ["alpha beta", *(f"filler number {n}" for n in range(50)), "alpha beta " * 200, "alpha " * 3]
    index.apply(removed=(), added=[(slot, text, "") for slot, text in enumerate(texts)], mark=Mark("v", 1, len(texts)))
    searcher = index.searcher()
    assert searcher.terms("Alpha betas, ALPHA zeta") == [("alpha", 3), ("beta", 2), ("zeta", 0)]
    found = searcher.search("alpha beta", 10, allowed=None, below=len(texts))
    most = ceiling(searcher.terms("alpha beta"), len(texts))
    assert 0.8 * most < found.scores[0] <= most
    assert found.scores[0] < 0.5 * ceiling(searcher.terms("alpha beta zeta gamma"), len(texts))
    index.close_writer()


@pytest.mark.parametrize("size", [1e-30, 1e36])
def test_scores_of_a_metric_may_be_of_any_size(size: float) -> None:
    slots = np.array([1, 2, 3])
    dense = np.array([-3 * size, -1 * size, -2 * size], np.float32)
    fused = fuse(slots, dense, neighbors([3], [1.0]), fusion=Fusion(), depth=9, ceiling=50.0)
    assert np.isfinite(fused.score).all()
    assert fused.slots.tolist() == [2, 3, 1]

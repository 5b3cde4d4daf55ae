"""The contract of a vector index, as a suite of tests.

Subclass `IndexContract` in a test module and define the fixture `build`, a function from float32 vectors to an index:

    class TestMine(IndexContract):
        @pytest.fixture
        def build(self, tmp_path):
            return lambda vectors: MyIndex(vectors, tmp_path)

It checks values: returned scores are the exact inner products, filters are exact, recall is above the declared floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embank.store.index.protocol import Index

Float32 = npt.NDArray[np.float32]
Build = Callable[[Float32], Index]

DIMENSION = 48


def clustered(count: int, *, seed: int) -> Float32:
    """Normalised vectors around many centres: neighbourhoods exist, as in real embeddings and never in plain noise."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(count // 20, 1), DIMENSION))
    rows = centres[random.integers(len(centres), size=count)] + 0.35 * random.standard_normal((count, DIMENSION))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class IndexContract:
    """What holds for every index. `score_tolerance` is how far a returned score may be from the exact one."""

    score_tolerance = 2e-3

    @pytest.fixture
    def build(self) -> Build:
        """Makes the index under test from vectors of shape (n, d); to be overridden."""
        raise NotImplementedError("define the fixture `build`")

    def test_scores_are_those_of_the_returned_slots(self, build: Build) -> None:
        vectors = clustered(1_500, seed=1)
        index = build(vectors)
        for query in clustered(10, seed=2):
            found = index.search(query, 20)
            exact = vectors[found.slots] @ query
            np.testing.assert_allclose(found.scores, exact, atol=self.score_tolerance)
            assert (np.diff(found.scores) <= 0).all()

    def test_recall_is_above_the_declared_floor(self, build: Build) -> None:
        vectors = clustered(5_000, seed=3)
        index = build(vectors)
        hits = total = 0
        for query in clustered(50, seed=4):
            exact = vectors @ query
            tenth = np.sort(exact)[-10]
            found = index.search(query, 10)
            hits += int((exact[found.slots] >= tenth - self.score_tolerance).sum())
            total += 10
        assert hits / total >= index.capabilities.recall_floor

    def test_filter_is_exact(self, build: Build) -> None:
        vectors = clustered(3_000, seed=5)
        index = build(vectors)
        if not index.capabilities.filters:
            pytest.skip(f"{index.name} takes no filters")
        random = np.random.default_rng(6)
        query = clustered(1, seed=7)[0]
        for share in (0.9, 0.3, 0.01):
            allowed = random.random(len(vectors)) < share
            found = index.search(query, 10, allowed=allowed)
            assert allowed[found.slots].all()
            best = np.sort((vectors @ query)[allowed])[::-1][:10]
            if index.capabilities.exact_scores:
                np.testing.assert_allclose(found.scores, best, atol=self.score_tolerance)
            assert len(found.slots) == min(10, int(allowed.sum()))

    def test_nothing_allowed_gives_nothing(self, build: Build) -> None:
        index = build(clustered(100, seed=8))
        found = index.search(clustered(1, seed=9)[0], 5, allowed=np.zeros(100, np.bool_))
        assert found.slots.tolist() == []
        assert found.scores.tolist() == []

    def test_k_beyond_the_rows_gives_all_rows_once(self, build: Build) -> None:
        index = build(clustered(30, seed=10))
        found = index.search(clustered(1, seed=11)[0], 100)
        assert sorted(found.slots.tolist()) == list(range(30))

    def test_no_slot_twice(self, build: Build) -> None:
        index = build(np.repeat(clustered(50, seed=12), 4, axis=0))
        found = index.search(clustered(1, seed=13)[0], 60)
        assert len(set(found.slots.tolist())) == len(found.slots)

    def test_equal_vectors_are_answered_in_slot_order(self, build: Build) -> None:
        one = clustered(1, seed=14)
        index = build(np.repeat(one, 20, axis=0))
        assert index.search(one[0], 5).slots.tolist() == [0, 1, 2, 3, 4]

    def test_an_empty_index_answers_nothing(self, build: Build) -> None:
        index = build(np.empty((0, DIMENSION), np.float32))
        assert index.rows == 0
        assert len(index.search(clustered(1, seed=15)[0], 3).slots) == 0

    def test_types(self, build: Build) -> None:
        index = build(clustered(64, seed=16))
        found = index.search(clustered(1, seed=17)[0], 3)
        kinds: list[Any] = [found.slots.dtype, found.scores.dtype, index.rows, isinstance(index, Index)]
        assert kinds == [np.int64, np.float32, 64, True]
        assert index.used_bytes() >= 0

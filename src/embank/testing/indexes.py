"""The contract of a vector index, as a suite of tests.

Subclass `IndexContract` in a test module and define the fixture `build`, a function from float32 vectors to an index:

    class TestMine(IndexContract):
        @pytest.fixture
        def build(self, tmp_path):
            return lambda vectors: MyIndex(vectors, tmp_path)

`CodesContract` is the same for what lies below an index with rescoring: its fixture makes codes from vectors.

It checks values: returned scores are the exact inner products, filters are exact, recall is above the declared floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embank.store.index.protocol import Codes, Index

Float32 = npt.NDArray[np.float32]
Build = Callable[[Float32], Index]

BuildCodes = Callable[[Float32], Codes]

DIMENSION = 48


def clustered(count: int, *, seed: int) -> Float32:
    """Normalised vectors around many centres: neighbourhoods exist, as in real embeddings and never in plain noise."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(count // 20, 1), DIMENSION))
    rows = centres[random.integers(len(centres), size=count)] + 0.35 * random.standard_normal((count, DIMENSION))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def questions(vectors: Float32, count: int, *, seed: int) -> Float32:
    """Normalised queries, each somewhere around one of `vectors`: near some of them, and equal to none."""
    random = np.random.default_rng(seed)
    chosen = vectors[random.integers(len(vectors), size=count)]
    rows = chosen + 0.7 * random.standard_normal(chosen.shape) / np.sqrt(chosen.shape[1])
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
        hits = sum(
            self._hits(vectors @ query, index.search(query, 10).slots) for query in questions(vectors, 50, seed=4)
        )
        assert hits / 500 >= index.capabilities.recall_floor

    def test_filter_is_exact(self, build: Build) -> None:
        vectors = clustered(3_000, seed=5)
        index = build(vectors)
        if not index.capabilities.filters:
            pytest.skip(f"{index.name} takes no filters")
        random = np.random.default_rng(6)
        for share in (0.9, 0.3, 0.01):
            allowed = random.random(len(vectors)) < share
            hits = 0
            for query in questions(vectors, 20, seed=7):
                found = index.search(query, 10, allowed=allowed)
                exact = vectors @ query
                assert allowed[found.slots].all()
                assert len(found.slots) == min(10, int(allowed.sum()))
                if index.capabilities.exact_scores:
                    np.testing.assert_allclose(found.scores, exact[found.slots], atol=self.score_tolerance)
                hits += self._hits(np.where(allowed, exact, -np.inf), found.slots)
            assert hits / 200 >= index.capabilities.recall_floor

    def _hits(self, exact: Float32, found: npt.NDArray[np.int64]) -> int:
        """How many of `found` are among the 10 best, or as good as the tenth."""
        return int((exact[found] >= np.sort(exact)[-10] - self.score_tolerance).sum())

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


class CodesContract:
    """What holds for codes: they find most of what is near among 20 times as many candidates, and heed a filter."""

    @pytest.fixture
    def build(self) -> BuildCodes:
        """Makes the codes under test from vectors of shape (n, d); to be overridden."""
        raise NotImplementedError("define the fixture `build`")

    def test_what_is_near_is_among_the_candidates(self, build: BuildCodes) -> None:
        vectors = clustered(5_000, seed=21)
        codes = build(vectors)
        hits = 0
        for query in questions(vectors, 50, seed=22):
            nearest = np.argsort(vectors @ query)[-10:]
            hits += len(np.intersect1d(codes.candidates(query, 200), nearest))
        assert hits / 500 >= 0.9

    def test_candidates_are_slots_none_twice(self, build: BuildCodes) -> None:
        codes = build(clustered(1_000, seed=23))
        found = codes.candidates(clustered(1, seed=24)[0], 100)
        assert found.dtype == np.int64
        assert 0 < len(found) <= 100
        assert len(set(found.tolist())) == len(found)
        assert set(found.tolist()) <= set(range(1_000))

    def test_a_filter_is_heeded(self, build: BuildCodes) -> None:
        codes = build(clustered(3_000, seed=25))
        if not codes.takes_filters:
            pytest.skip(f"{codes.name} takes no filters")
        random = np.random.default_rng(26)
        for share in (0.9, 0.3, 0.01, 0.0):
            allowed = random.random(3_000) < share
            assert allowed[codes.candidates(clustered(1, seed=27)[0], 100, allowed=allowed)].all()

    def test_vectors_can_be_added_bit_by_bit(self, build: BuildCodes) -> None:
        vectors = clustered(700, seed=28)
        codes = build(vectors[:100])
        for first in range(100, 700, 150):
            codes.add(vectors[first : first + 150])
        assert codes.rows == 700
        assert 650 in codes.candidates(vectors[650], 50)

    def test_it_counts_its_bytes(self, build: BuildCodes) -> None:
        small, large = build(clustered(500, seed=29)), build(clustered(4_000, seed=29))
        if not large.method.held_bytes(4_000):
            pytest.skip(f"{large.name} is held by another process")
        assert 0 < small.used_bytes() < large.used_bytes()

    def test_it_can_be_written(self, build: BuildCodes) -> None:
        written: list[bytes] = []
        build(clustered(500, seed=29)).save(written.append)
        assert sum(map(len, written)) > 0  # all of them, or how to find them

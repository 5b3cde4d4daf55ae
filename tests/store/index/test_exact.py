"""The exact index over mapped segments: the shipped contract, for both ways of storing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embank.store.codec import Codec
from embank.store.index.exact import BLOCK_ROWS, ExactIndex
from embank.store.vectors import Segments
from embank.system.files import Files
from embank.testing.indexes import Build, Float32, IndexContract, clustered


class _Exact(IndexContract):
    dtype = "fp16"

    @pytest.fixture
    def build(self, tmp_path: Path) -> Build:
        def build(vectors: Float32) -> ExactIndex:
            segments = Segments(tmp_path / "v", Codec(self.dtype, vectors.shape[1]), files=Files())
            if len(vectors):
                segments.append(vectors, mark=0)
            return ExactIndex(segments.rows(len(vectors)))

        return build


class TestHalfPrecision(_Exact):
    """fp16."""


class TestBytes(_Exact):
    """int8 with a scale a row."""

    dtype = "int8"
    score_tolerance = 8e-3

    def test_filter_is_exact(self, build: Build) -> None:
        super().test_filter_is_exact(build)


def test_the_answer_does_not_depend_on_where_blocks_end(tmp_path: Path) -> None:
    vectors = clustered(2 * BLOCK_ROWS + 7, seed=20)
    segments = Segments(tmp_path / "v", Codec("fp16", vectors.shape[1]), files=Files())
    segments.append(vectors, mark=0)
    query = clustered(1, seed=21)[0]
    found = ExactIndex(segments.rows(len(vectors))).search(query, 50)
    exact = vectors.astype(np.float16).astype(np.float32) @ query
    order = np.lexsort((np.arange(len(exact)), -exact))[:50]
    assert found.slots.tolist() == order.tolist()

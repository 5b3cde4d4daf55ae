"""Cosine, dot and l2: what every kind of index answers, compared with numpy; and vectors of lengths far apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embank.errors import InvalidInput
from embank.store.codec import Codec
from embank.store.index import faiss
from embank.store.index.exact import ExactIndex
from embank.store.index.methods import method
from embank.store.index.planner import Planner, mixtures
from embank.store.index.rescored import RescoredIndex
from embank.store.index.settings import Settings
from embank.store.metric import Metric, checked, prepared, scores, scores_of_each
from embank.store.vectors import Rows, Segments
from embank.system.files import Files
from embank.testing.indexes import DIMENSION, Float32, clustered, questions

_ROWS = 5_000
_needs_faiss = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")


def by_hand(metric: Metric, vectors: Float32, query: Float32) -> npt.NDArray[np.float64]:
    """The scores in double precision, as the definitions say."""
    rows, asked = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.asarray(-(np.linalg.norm(rows - asked, axis=1) ** 2))
    return np.asarray(rows @ asked)


def stored(folder: Path, vectors: Float32, metric: Metric, dtype: str = "fp16") -> Rows:
    segments = Segments(folder / "v", Codec(dtype, vectors.shape[1]), files=Files(), metric=metric)
    segments.append(vectors, mark=0)
    return segments.rows(len(vectors))


@pytest.fixture(scope="module")
def uneven() -> Float32:
    """Vectors whose lengths differ by a factor of ten and more, as those of users do."""
    lengths = 3 * np.random.default_rng(7).lognormal(0, 0.6, (_ROWS, 1))
    return np.asarray(clustered(_ROWS, seed=70) * lengths, np.float32)


@pytest.fixture(scope="module")
def asked(uneven: Float32) -> Float32:
    lengths = np.random.default_rng(8).lognormal(0, 0.6, (40, 1)).astype(np.float32)
    return np.asarray(questions(prepared("cosine", uneven), 40, seed=71) * 3 * lengths, np.float32)


_finite = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=60, deadline=None)
@given(
    vectors=arrays.arrays(np.float32, st.tuples(st.integers(1, 8), st.just(5)), elements=_finite),
    query=arrays.arrays(np.float32, (5,), elements=_finite),
    metric=st.sampled_from(["cosine", "dot", "l2"]),
)
def test_scores_are_those_of_numpy(vectors: Float32, query: Float32, metric: Metric) -> None:
    size = float(np.abs(vectors).max() + np.abs(query).max() + 1)
    found = scores(metric, vectors, query)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(metric, vectors, query), atol=1e-5 * size * size)
    np.testing.assert_allclose(scores_of_each(metric, query[None], vectors)[0], found, atol=1e-5 * size * size)


def test_the_distance_of_long_vectors_keeps_its_digits() -> None:
    one = np.full((1, 64), 1_000.0, np.float32)
    np.testing.assert_allclose(scores("l2", one, one[0] + np.float32(0.5)), [-16.0])


def test_only_cosine_changes_lengths_and_refuses_zeros() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    assert prepared("dot", rows).tolist() == prepared("l2", rows).tolist() == rows.tolist()
    np.testing.assert_allclose(prepared("cosine", rows[:1]), [[0.6, 0.8]])
    with pytest.raises(InvalidInput, match=r"vectors\[1\].*only zeros"):
        prepared("cosine", rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_what_can_not_be_reckoned_with_is_refused(metric: Metric, bad: float) -> None:
    with pytest.raises(InvalidInput, match=r"vectors\[1\]"):
        prepared(metric, np.array([[1.0, 1.0], [bad, 1.0]], np.float32))


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(InvalidInput, match="cosine, dot, l2, not 'euclid'"):
        checked("euclid")


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_the_exact_index_answers_as_numpy_does(tmp_path: Path, uneven: Float32, metric: Metric, dtype: str) -> None:
    rows = stored(tmp_path, uneven, metric, dtype)
    kept = rows.gather(np.arange(_ROWS))
    allowed = np.random.default_rng(1).random(_ROWS) < 0.3
    for query in uneven[::500]:
        true = by_hand(metric, kept, query)
        found = ExactIndex(rows).search(query, 10)
        np.testing.assert_allclose(found.scores, np.sort(true)[::-1][:10], rtol=1e-4, atol=1e-3)
        some = ExactIndex(rows).search(query, 10, allowed=allowed)
        np.testing.assert_allclose(some.scores, np.sort(true[allowed])[::-1][:10], rtol=1e-4, atol=1e-3)
        assert allowed[some.slots].all()


@_needs_faiss
@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("kind", ["flat", "sq8", "pq-fastscan", "rabitq", "ivf", "hnsw"])
def test_every_kind_finds_what_is_near_with_exact_scores(
    tmp_path: Path, uneven: Float32, asked: Float32, kind: str, metric: Metric
) -> None:
    rows = stored(tmp_path, uneven, metric)
    of = method(kind, DIMENSION, _ROWS, lists=16, probes=12, parts=24, metric=metric)
    codes = faiss.train(of, uneven[:4_608])
    codes.add(uneven[:4_800])  # the rest is in no codes yet
    index = RescoredIndex(codes, rows, depth=400, exhaustive=of.exhaustive)
    allowed = np.random.default_rng(2).random(_ROWS) < 0.6  # a filter, and tombstones
    hits = filtered = 0
    for query in asked:
        true = by_hand(metric, uneven, query)
        found = index.search(query, 10)
        np.testing.assert_allclose(found.scores, true[found.slots], rtol=2e-3, atol=2e-2)
        hits += len(np.intersect1d(found.slots, np.argsort(true)[-10:]))
        found = index.search(query, 10, allowed=allowed)
        assert allowed[found.slots].all()
        filtered += len(np.intersect1d(found.slots, np.argsort(np.where(allowed, true, -np.inf))[-10:]))
    assert hits >= 0.95 * 10 * len(asked)
    assert filtered >= 0.95 * 10 * len(asked)


@_needs_faiss
def test_an_index_by_inner_product_would_miss_what_is_near(uneven: Float32, asked: Float32) -> None:
    """So the test above tells the two apart."""
    codes = faiss.train(method("flat", DIMENSION, _ROWS, metric="dot"), uneven)
    codes.add(uneven)
    near = [np.argmax(by_hand("l2", uneven, query)) in codes.candidates(query, 100) for query in asked]
    assert np.mean(near) < 0.9


@_needs_faiss
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_questions_of_the_planner_keep_their_lengths(tmp_path: Path, uneven: Float32, metric: Metric) -> None:
    rows = stored(tmp_path, uneven, metric)
    lengths = np.linalg.norm(mixtures(rows, np.arange(_ROWS), count=50).vectors, axis=1)
    assert lengths.std() > 0.5
    planner = Planner(Settings(), limit_bytes=1 << 30, going=lambda: True)
    best = planner._nearest(rows, np.arange(_ROWS), uneven[:20])
    for place, query in enumerate(uneven[:20]):
        assert set(best[place]) == set(np.argsort(by_hand(metric, uneven.astype(np.float16), query))[-10:])


def test_what_half_precision_can_not_hold_is_refused_with_the_figure() -> None:
    rows = np.array([[1.0, 70_000.0]], np.float32)
    with pytest.raises(InvalidInput, match=r"70000 is more than the 65,504 that fp16.*int8"):
        Codec("fp16", 2).encode(rows)
    kept = Codec("int8", 2)
    np.testing.assert_allclose(kept.decode(kept.encode(rows)), rows, atol=70_000 / 254)


def test_damage_is_told_by_length_only_where_all_have_length_1() -> None:
    codec = Codec("fp16", 2)
    records = codec.encode(np.array([[0.6, 0.8], [3.0, 4.0]], np.float32))
    assert codec.damaged(records).tolist() == [False, True]
    assert codec.damaged(records, unit=False).tolist() == [False, False]
    records["codes"][0, 0] = np.inf
    assert codec.damaged(records, unit=False).tolist() == [True, False]

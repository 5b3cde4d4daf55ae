"""Kinds side by side: what the table says holds, and a kind for which there are too few vectors is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.store.index.conftest import Opener, add

from embank.errors import InvalidInput
from embank.store.codec import Codec
from embank.store.index import faiss
from embank.store.index.building import Interrupted
from embank.store.index.evaluation import Comparison, Evaluator, Measured
from embank.store.index.planner import Questions, mixtures
from embank.store.index.settings import Settings
from embank.store.vectors import Rows, Segments
from embank.system.files import Files
from embank.testing.indexes import DIMENSION, Float32, clustered, questions

pytestmark = pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")


def stored(folder: Path, vectors: Float32) -> Rows:
    segments = Segments(folder / "v", Codec("fp16", vectors.shape[1]), files=Files())
    segments.append(vectors, mark=0)
    return segments.rows(len(vectors))


def of(made: Comparison, kind: str) -> Measured:
    return next(each for each in made.measured if each.kind == kind)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    vectors = clustered(4_500, seed=90)
    rows = stored(tmp_path_factory.mktemp("v"), vectors)
    ticks = iter(np.arange(0, 1_000_000, 0.5))
    evaluator = Evaluator(Settings(), going=lambda: True, clock=lambda: float(next(ticks)))
    asked = Questions(questions(vectors, 60, seed=91), "made-up questions")
    return evaluator.compare(rows, None, asked, count=1_000)


def test_every_kind_is_measured_on_the_sample(made: Comparison) -> None:
    assert (made.rows, made.of_rows, made.dimension, made.metric) == (1_000, 4_500, DIMENSION, "cosine")
    kinds = {each.kind for each in made.measured}
    assert {"flat", "sq8", "pq", "pq-fastscan", "rabitq", "ivf", "hnsw"} <= kinds
    assert made.refused == {}
    for each in made.measured:
        assert each.recall >= (0.5 if each.kind == "ivf" else 0.9)  # two lists of sixteen are looked into
        assert each.recall_low < each.recall
        assert each.loss == pytest.approx(1 - each.recall)
        assert each.codes_recall <= each.recall + 0.02


def test_flat_is_the_measure_of_what_is_saved(made: Comparison) -> None:
    flat, fast = of(made, "flat"), of(made, "pq-fastscan")
    assert (flat.saved, flat.recall, flat.trained_rows) == (0.0, 1.0, 0)
    assert fast.saved == pytest.approx(1 - fast.bytes / flat.bytes)
    assert fast.saved > 0.5
    assert fast.codes_recall < 0.99 < fast.recall  # so that rescoring is what the difference comes from


def test_quantisers_are_trained_on_more_than_the_sample_with_as_many_bits_as_fit(made: Comparison) -> None:
    assert of(made, "pq-fastscan").trained_rows == 4_500
    assert "x6np" in of(made, "pq").method  # 39 vectors for each of 64 centroids, not of 128


def test_times_are_those_of_the_clock(made: Comparison) -> None:
    assert {each.add_s for each in made.measured} == {0.5}
    assert {each.search_s for each in made.measured} == {0.5 / 60}


def test_what_can_not_be_trained_is_refused_with_the_figure(tmp_path: Path) -> None:
    rows = stored(tmp_path, clustered(1_000, seed=92))
    alive = np.zeros(1_000, np.bool_)
    alive[:10] = True
    asked = mixtures(rows, np.arange(1_000), count=20)
    made = Evaluator(Settings(), going=lambda: True).compare(rows, alive, asked)
    assert {each.kind for each in made.measured} == {"flat", "hnsw"}
    assert made.refused["pq"] == "IVF1,PQ6x4np is trained on at least 4,096 vectors, there are 990"
    assert made.rows == made.of_rows == 990


def test_too_few_and_too_many_are_refused(tmp_path: Path) -> None:
    rows = stored(tmp_path, clustered(120, seed=93))
    evaluator = Evaluator(Settings(), going=lambda: True)
    asked = mixtures(rows, np.arange(120), count=5)
    with pytest.raises(InvalidInput, match="20 vectors are too few"):
        evaluator.compare(rows, np.arange(120) >= 20, asked)
    with pytest.raises(InvalidInput, match="100 to 50,000"):
        evaluator.compare(rows, None, asked, count=50)
    with pytest.raises(Interrupted):
        Evaluator(Settings(), going=lambda: False).compare(rows, None, asked, count=100)


def test_a_collection_compares_its_own(bank: Opener) -> None:
    collection = bank(kind="exact")
    assert collection.index.compare() is None
    add(collection, clustered(300, seed=94))
    made = collection.index.compare(count=200)
    assert made is not None
    assert (made.rows, made.of_rows) == (200, 300)
    assert collection.index.status() == collection.index.status()
    assert "mixtures" in made.asked

"""The metric of a collection, as people use it: recorded with its first row, kept for good, and what scores are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import embank
from embank.errors import InvalidInput, MetricMismatch
from embank.store.verify import verify
from embank.testing.fakes import HashModel

ROWS = np.random.default_rng(3).standard_normal((30, 6)) * np.arange(1, 31)[:, None]
DOCUMENTS = [{"id": f"d{number}", "text": f"number {number}", "metadata": {"n": number}} for number in range(30)]
QUERY = np.array([1.0, -2.0, 0.5, 3.0, 0.0, 1.5])


def wanted(metric: str) -> dict[str, float]:
    if metric == "dot":
        found = ROWS @ QUERY
    elif metric == "l2":
        found = -(np.linalg.norm(ROWS - QUERY, axis=1) ** 2)
    else:
        found = ROWS @ QUERY / np.linalg.norm(ROWS, axis=1) / np.linalg.norm(QUERY)
    return {f"d{number}": float(score) for number, score in enumerate(found)}


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_scores_are_those_of_numpy_and_the_metric_is_on_record(tmp_path: Path, metric: str) -> None:
    with embank.open(tmp_path / "bank") as bank:
        own = bank.collection("own", metric=metric)
        own.add(DOCUMENTS, vectors=ROWS)
        own.delete("d7")
    with embank.open(tmp_path / "bank", read_only=True) as bank:
        own = bank.collection("own")
        info = own.stats()
        assert info is not None
        assert info.metric == metric
        true = wanted(metric)
        del true["d7"]
        hits = own.search(vector=QUERY, k=5)
        assert [hit.id for hit in hits] == sorted(true, key=lambda name: -true[name])[:5]
        for hit in hits:
            assert hit.score == pytest.approx(true[hit.id], rel=2e-3, abs=2e-3)
            assert hit.scores == {"dense": hit.score}
        few = own.search(vector=QUERY, k=3, where={"n": {"$gte": 20}})
        assert [hit.id for hit in few] == sorted(list(true)[19:], key=lambda name: -true[name])[:3]
        mixed = own.search("number 12", vector=QUERY, k=3, mode="hybrid")
        assert all(hit.scores["dense"] == pytest.approx(true[hit.id], rel=2e-3, abs=2e-3) for hit in mixed)
    assert not verify(tmp_path / "bank", full=True).damaged


def test_the_length_of_a_query_counts_unless_for_cosine(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank") as bank:
        for metric in ("cosine", "dot"):
            bank.collection(metric, metric=metric).add(DOCUMENTS, vectors=ROWS)
        for metric, factor in (("cosine", 1.0), ("dot", 2.0)):
            own = bank.collection(metric)
            once, twice = own.search(vector=QUERY, k=3), own.search(vector=2 * QUERY, k=3)
            assert [hit.score * factor for hit in once] == pytest.approx([hit.score for hit in twice], rel=1e-5)
        assert len(bank.collection("dot").search(vector=np.zeros(6), k=3)) == 3
        with pytest.raises(InvalidInput, match="not all zero"):
            bank.collection("cosine").search(vector=np.zeros(6), k=3)


def test_a_metric_can_not_be_changed(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank") as bank:
        own = bank.collection("own", metric="l2")
        assert bank.collection("own", metric="l2").stats() is None
        with pytest.raises(MetricMismatch, match="as it was opened here before"):
            bank.collection("own", metric="dot")
        own.add(DOCUMENTS, vectors=ROWS)
        with pytest.raises(InvalidInput, match="cosine, dot, l2, not 'L1'"):
            bank.collection("own", metric="L1")
    with embank.open(tmp_path / "bank") as bank:
        with pytest.raises(MetricMismatch, match="compares vectors by l2, not by cosine") as raised:
            bank.collection("own", metric="cosine")
        assert raised.value.fields == {"stored": "l2", "offered": "cosine"}
        assert bank.collection("own").count() == 30


def test_a_reader_that_wants_another_metric_than_the_writer_chose_is_told(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank") as bank, embank.open(tmp_path / "bank", read_only=True) as reader:
        seen = reader.collection("own", metric="dot")  # before its first row
        bank.collection("own", metric="l2").add(DOCUMENTS, vectors=ROWS)
        with pytest.raises(MetricMismatch):
            seen.search(vector=QUERY)


def test_vectors_of_a_model_serve_every_metric(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        found = {}
        for metric in ("cosine", "dot", "l2"):
            notes = bank.collection(metric, metric=metric)
            notes.add(DOCUMENTS)
            found[metric] = notes.search("number 12", k=4, mode="dense")
        assert found["cosine"][0].id == found["dot"][0].id == found["l2"][0].id == "d12"
        for one, other in zip(found["cosine"], found["l2"], strict=True):
            assert 2 * one.score - 2 == pytest.approx(other.score, abs=5e-3)


def test_values_that_half_precision_can_not_hold_are_refused_whole(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank") as bank:
        own = bank.collection("own", metric="dot")
        with pytest.raises(InvalidInput, match="65,504"):
            own.add(DOCUMENTS, vectors=ROWS * 1e5)
        assert own.count() == 0
    with embank.open(tmp_path / "bank", flags={"store.dtype": "int8"}) as bank:
        large = bank.collection("large", metric="dot")
        large.add(DOCUMENTS, vectors=ROWS * 1e5)
        best = large.search(vector=QUERY, k=1)[0]
        assert best.score == pytest.approx(wanted("dot")[best.id] * 1e5, rel=0.02)


def test_lengths_are_not_thrown_away_by_reducing(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank") as bank:
        own = bank.collection("own", metric="dot")
        own.add(DOCUMENTS, vectors=ROWS)
        with pytest.raises(InvalidInput, match="by dot: reducing them keeps directions"):
            own.reducer().fit(3)


def test_compaction_and_backup_keep_the_metric(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank") as bank:
        own = bank.collection("own", metric="l2")
        own.add(DOCUMENTS, vectors=ROWS)
        own.delete(["d1", "d2"])
        before = [(hit.id, hit.score) for hit in own.search(vector=QUERY, k=8)]
        own.compact()
        assert [(hit.id, hit.score) for hit in own.search(vector=QUERY, k=8)] == before
        bank.backup(tmp_path / "copy")
    with embank.open(tmp_path / "copy", read_only=True) as bank:
        info = bank.collection("own").stats()
        assert info is not None
        assert info.metric == "l2"
        assert [(hit.id, hit.score) for hit in bank.collection("own").search(vector=QUERY, k=8)] == before

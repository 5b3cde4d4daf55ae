"""Reranking: through the protocol, and by a real cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.memory.machine import StillClock
from tests.search import tiny_crossencoder
from tests.search.notes import NOTES

import embank
from embank.errors import EmbeddingFailed, InvalidInput, ModelFileError
from embank.memory.governor import Governor
from embank.testing.fakes import HashModel


class Longest:
    """Prefers long texts; remembers what it read."""

    name = "longest"

    def __init__(self) -> None:
        self.read: list[list[str]] = []
        self.answer: Any = None

    def score(self, query: str, texts: Sequence[str]) -> Any:
        self.read.append(list(texts))
        return np.array([len(text) for text in texts], np.float32) if self.answer is None else self.answer


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
def test_the_best_candidates_are_put_in_its_order(tmp_path: Path, mode: Any) -> None:
    ranker = Longest()
    with embank.open(tmp_path / "bank", model=HashModel(), reranker=ranker) as bank:
        notes = bank.collection("notes")
        notes.add(NOTES)
        hits = notes.search("rivers", k=2, mode=mode, explain=True)
        assert [hit.id for hit in hits] == ["a2", "a3"]  # of 33 and 31 characters; the third is of 29
        assert [hit.score for hit in hits] == [33.0, 31.0]
        assert hits[0].scores["reranked"] == 33.0
        assert hits[0].explained is not None
        assert hits[0].explained["reranked"] == {"score": 33.0, "rank": 1}
        assert hits[0].explained["fused"]["rank"] > 1
        assert "rerank" in hits[0].explained["search"]["ms"]
        assert notes.search("rivers", k=2, mode=mode, explain=True)[0].score == 33.0  # from the cache
        assert len(ranker.read) == 1
        plain = notes.search("rivers", k=2, mode=mode, rerank=False)
        assert plain[0].id == "a1"
        assert "reranked" not in plain[0].scores
        assert [hit.id for hit in notes.search("rivers", k=1, mode=mode, diversity=0.1)] == ["a2"]
        notes.like("a1")  # no question that it could read
        notes.search(vector=np.ones(64))
        assert len(ranker.read) == 2


def test_it_reads_no_more_than_it_may(tmp_path: Path) -> None:
    ranker = Longest()
    with embank.open(
        tmp_path / "bank", model=HashModel(), reranker=ranker, flags={"search.rerank_candidates": 5}
    ) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": f"{n}", "text": f"river {n}"} for n in range(30)])
        assert len(notes.search("river", k=3)) == 3
        assert len(notes.search("river", k=8)) == 8
    assert [len(texts) for texts in ranker.read] == [5, 8]


@pytest.mark.parametrize("bad", [np.ones(2), np.ones((3, 1)), np.array([1.0, np.nan, 2.0])])
def test_what_is_no_score_is_told(tmp_path: Path, bad: Any) -> None:
    ranker = Longest()
    ranker.answer = bad
    with embank.open(tmp_path / "bank", model=HashModel(), reranker=ranker) as bank:
        bank.collection("notes").add(NOTES)
        with pytest.raises(EmbeddingFailed, match="longest"):
            bank.collection("notes").search("rivers")


def test_what_is_no_reranker_is_refused_by_name(tmp_path: Path) -> None:
    wrong: Any = object()
    with pytest.raises(InvalidInput, match="reranker"):
        embank.open(tmp_path / "one", reranker=wrong)
    with embank.open(tmp_path / "two", model=HashModel(), reranker="nowhere") as bank:
        bank.collection("notes").add(NOTES)
        with pytest.raises(InvalidInput, match="nowhere"):
            bank.collection("notes").search("rivers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    return tiny_crossencoder.write(tmp_path_factory.mktemp("models") / "tiny")


def opened(folder: Path, **settings: Any) -> Any:
    from embank.search.crossencoder import CrossEncoder

    clock = settings.pop("clock", None) or StillClock()
    governor = settings.pop("governor", None) or Governor(1 << 40, clock=clock)
    return CrossEncoder(folder, governor=governor, clock=clock, keep_alive_s=settings.pop("keep_alive_s", None))


def test_a_cross_encoder_reads_pairs_alone_and_beside_others_alike(folder: Path) -> None:
    model = opened(folder)
    texts = ["rivers carry silt", "mountains rise", "sea", "", "nothing known", "silt " * 400, "rivers carry silt"]
    scores = model.score("mountains", texts)
    # Of the pair of 16 tokens, three special and one the question, twelve are left for the passage.
    assert scores.tolist() == [3.5, 8.25, 0.125, 0.0, 0.0, 24.0, 3.5]
    assert scores.dtype == np.float32
    assert [model.score("mountains", [text])[0] for text in texts] == scores.tolist()
    many = model.score("mountains " * 100_000, ["silt"] * 200)
    assert set(many.tolist()) == {2.0}
    assert model.score("mountains", []).shape == (0,)
    model.close()


def test_it_is_held_while_it_is_used_and_let_go_when_idle_or_asked(folder: Path) -> None:
    clock = StillClock()
    governor = Governor(1 << 40, clock=clock)
    model = opened(folder, governor=governor, clock=clock, keep_alive_s=300.0)
    assert model.used_bytes() == 0
    model.score("rivers", ["silt"])
    assert model.used_bytes() > 0
    assert "reranker tiny" in dict(governor.snapshot().consumers)
    assert model._rest() == clock.monotonic() + 300.0
    assert model.used_bytes() > 0
    clock.sleep(301)
    assert model._rest() is None
    assert model.used_bytes() == 0
    model.score("rivers", ["silt"])
    assert model.release(1) > 0
    assert model.used_bytes() == 0
    assert model.score("rivers", ["silt"]).tolist() == [2.0]
    model.close()
    assert "reranker tiny" not in dict(governor.snapshot().consumers)


def test_a_search_by_the_folder_of_a_model(tmp_path: Path, folder: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel(), reranker=str(folder)) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": "m", "text": "mountains rise"}, {"id": "r", "text": "rivers carry silt"}])
        hits = notes.search("rivers")
        assert [(hit.id, hit.score) for hit in hits] == [("m", 8.25), ("r", 3.5)]


def test_a_folder_that_holds_no_cross_encoder_is_told(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        opened(tmp_path / "empty")
    two = tiny_crossencoder.write(tmp_path / "two", outputs=2)
    with pytest.raises(ModelFileError, match="one logit a pair"):
        opened(two).score("rivers", ["silt", "sea"])
    bad = tiny_crossencoder.write(tmp_path / "bad")
    (bad / "onnx" / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelFileError):
        opened(bad).score("rivers", ["silt"])
    (bad / "config.json").write_text("[")
    with pytest.raises(ModelFileError, match="damaged"):
        opened(bad)

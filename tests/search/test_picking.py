"""Which of the candidates are answered, and what stands around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embank
from embank.bank import Bank
from embank.search.fuse import Fused
from embank.search.picking import diverse
from embank.testing.fakes import HashModel


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_least_scores_are_those_of_the_hits(bank: Bank, mode: Any) -> None:
    notes = bank.collection("notes")
    everything = notes.search("rivers and mountains of silt", mode=mode)
    scores = sorted(hit.score for hit in everything)
    for least in (scores[0] - 1, scores[1], scores[-1], scores[-1] + 1):
        hits = notes.search("rivers and mountains of silt", mode=mode, min_score=least)
        assert hits == [hit for hit in everything if hit.score >= least]


def test_a_least_score_is_looked_for_no_deeper_than_it_can_be(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel(), flags={"search.candidates": 5}) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": f"{n}", "text": f"number {n}"} for n in range(300)])
        notes.add([{"id": "right", "text": "zebra"}])
        (hit,) = notes.search("zebra", k=10, min_score=0.5, explain=True)
        assert hit.id == "right"
        assert hit.explained is not None
        assert hit.explained["search"]["candidates"]["depth"] == 10


@pytest.fixture
def book(tmp_path: Path) -> Any:
    """A book of 30 passages of ten words each, one page that speaks of zebras once, and a model with short passages."""
    with embank.open(tmp_path / "book", model=HashModel(max_tokens=12), flags={"chunk.overlap_tokens": 0}) as bank:
        text = " ".join(f"Zebra {n} runs over the plains of the far south." for n in range(30))
        bank.collection("book").add(
            [{"id": "book", "text": text}, {"id": "page", "text": "One zebra."}, {"id": "other", "text": "Nothing."}]
        )
        yield bank.collection("book")


def test_up_to_so_many_passages_of_a_document(book: Any) -> None:
    one = [hit.id for hit in book.search("zebra", k=10, mode="lexical")]
    assert sorted(one) == ["book", "page"]
    three = [hit.id for hit in book.search("zebra", k=10, mode="lexical", per_document=3)]
    assert (three.count("book"), three.count("page")) == (3, 1)
    assert len(book.search("zebra", k=2, mode="lexical", per_document=3)) == 2
    hits = book.search("zebra", k=10, per_document=3)
    assert len({(hit.id, hit.chunk) for hit in hits}) == len(hits) == 5


@pytest.mark.parametrize("reach", [1, 2, 100])
def test_what_stands_around_a_passage_is_a_piece_of_the_document(book: Any, reach: int) -> None:
    (document,) = book.get("book")
    hits = [hit for hit in book.search("zebra", k=30, per_document=30, neighbors=reach) if hit.id == "book"]
    by_chunk = {hit.chunk: hit for hit in hits}
    assert len(by_chunk) > 3
    for hit in hits:
        first, last = max(hit.chunk - reach, min(by_chunk)), min(hit.chunk + reach, max(by_chunk))
        assert (
            hit.before + hit.text + hit.after == document.text[hit.start - len(hit.before) : hit.end + len(hit.after)]
        )
        if first in by_chunk and last in by_chunk:
            assert hit.start - len(hit.before) == by_chunk[first].start
            assert hit.end + len(hit.after) == by_chunk[last].end
    (page,) = [hit for hit in book.search("one zebra", k=5, neighbors=reach) if hit.id == "page"]
    assert (page.before, page.after) == ("", "")
    assert all(hit.before == hit.after == "" for hit in book.search("zebra"))


def test_alike_passages_give_way(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": f"same{n}", "text": "Rivers carry silt and sand."} for n in range(5)])
        notes.add([{"id": "other", "text": "Rivers freeze in winter."}, {"id": "far", "text": "Bread rises."}])
        plain = [hit.id for hit in notes.search("rivers silt", k=3, mode="dense")]
        assert plain == ["same0", "same1", "same2"]
        assert [hit.id for hit in notes.search("rivers silt", k=3, mode="dense", diversity=0.0)] == plain
        assert "other" in [hit.id for hit in notes.search("rivers silt", k=2, mode="dense", diversity=0.6)]
        spread = [hit.id for hit in notes.search("rivers silt", k=3, diversity=1.0)]
        assert len({name.rstrip("01234") for name in spread}) == 3


def test_relevance_by_the_formula() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(40, 8)).astype(np.float32)
    score = rng.normal(size=40).astype(np.float32)
    found = Fused(np.arange(40), score, score, score)
    chosen = diverse(found, vectors, 6, diversity=0.4).slots.tolist()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = (score - score.min()) / (score.max() - score.min())
    taken = [int(np.argmax(score))]
    while len(taken) < 6:
        worth = {
            n: 0.6 * relevance[n] - 0.4 * max(float(unit[n] @ unit[m]) for m in taken)
            for n in range(40)
            if n not in taken
        }
        taken.append(max(worth, key=lambda n: worth[n]))
    assert chosen == taken

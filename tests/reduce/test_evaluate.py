"""The comparison of ways to keep vectors, held against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.reduce.conftest import texts, wide

from embank.bank import Bank, LocalCollection
from embank.errors import InvalidInput
from embank.reduce.evaluate import Evaluation, Line, Way, judge
from embank.reduce.questions import first_sentence
from embank.testing.indexes import Float32


def line(evaluation: Evaluation, name: str, dtype: str, dimension: int) -> Line:
    (found,) = [
        each for each in evaluation.lines if (each.name, each.dtype, each.dimension) == (name, dtype, dimension)
    ]
    return found


def test_every_way_is_compared_in_bytes_and_recall(notes: LocalCollection) -> None:
    before = notes.stats()
    evaluation = notes.reducer().evaluate(dimensions=[48, 16])
    assert notes.stats() == before
    assert [(each.name, each.dtype, each.dimension) for each in evaluation.lines] == [
        ("full", "float32", 64),
        ("full", "fp16", 64),
        ("full", "int8", 64),
        ("PCA", "fp16", 48),
        ("PCA", "int8", 48),
        ("PCA", "fp16", 16),
        ("PCA", "int8", 16),
    ]
    assert (evaluation.fitted_on, evaluation.searched, evaluation.passages) == (300, 300, 600)
    assert (evaluation.queries, evaluation.k) == (150, 10)
    full = line(evaluation, "full", "float32", 64)
    assert (full.recall, full.recall_low, full.recall_high, full.explained) == (1.0, 1.0, 1.0, None)
    assert line(evaluation, "full", "fp16", 64).recall == 1.0  # that is how they are stored
    assert line(evaluation, "full", "int8", 64).bytes_each == 68
    wider, narrower = line(evaluation, "PCA", "fp16", 48), line(evaluation, "PCA", "fp16", 16)
    assert wider.bytes_total == 600 * 96
    assert wider.recall > narrower.recall
    assert (wider.explained or 0) > (narrower.explained or 0) > 0
    for each in evaluation.lines:
        assert 0 <= each.recall_low <= each.recall <= each.recall_high <= 1
    assert evaluation.as_dict()["confidence"] == 0.95


def test_the_same_seed_gives_the_same_figures(notes: LocalCollection) -> None:
    reducer = notes.reducer()
    first, again = (reducer.evaluate(dimensions=[16], sample=400, seed=3) for _ in range(2))
    assert first == again
    assert first.searched == 200
    assert reducer.evaluate(dimensions=[16], sample=400, seed=4) != first


def test_widths_are_chosen_where_none_is_named(notes: LocalCollection) -> None:
    evaluation = notes.reducer().evaluate()
    assert [each.dimension for each in evaluation.lines if each.name == "PCA"] == [42, 42, 32, 32, 21, 21, 16, 16]


def test_the_users_own_questions_are_asked(notes: LocalCollection) -> None:
    asked = list(texts(5, seed=4).values())
    evaluation = notes.reducer().evaluate(queries=[*asked, "  ", ""], dimensions=[32], k=5)
    assert (evaluation.queries, evaluation.k, evaluation.asked) == (5, 5, "5 questions of yours")
    with pytest.raises(InvalidInput, match="1 to 10,000 questions, one a line, not 0"):
        notes.reducer().evaluate(queries=["", " "])


def test_vectors_of_ones_own_are_asked_with_vectors(bank: Bank) -> None:
    own = bank.collection("own")
    own.add([f"text {number}" for number in range(500)], vectors=wide(500, 96))
    evaluation = own.reducer().evaluate(dimensions=[48])
    # Those that are asked are not searched: each would find itself.
    assert (evaluation.queries, evaluation.searched, evaluation.fitted_on) == (125, 125, 250)
    assert line(evaluation, "PCA", "fp16", 48).recall > 0.7
    with pytest.raises(InvalidInput, match="no model to embed questions"):
        own.reducer().evaluate(queries=["what"])


def test_what_can_not_be_fitted_is_left_out_and_said(bank: Bank) -> None:
    few = bank.collection("few")
    few.add([{"id": name, "text": text} for name, text in texts(40).items()])
    evaluation = few.reducer().evaluate(dimensions=[32, 8])
    assert {each.dimension for each in evaluation.lines if each.name == "PCA"} == {8}
    assert evaluation.left_out == ["PCA to 32: needs at least 32 vectors to be fitted on, a half of the sample has 20"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"k": 0}, "k must be a whole number from 1 to 100"),
        ({"k": 101}, "k must be"),
        ({"dimensions": [64]}, "1 up to 63, not to 64"),
        ({"dimensions": [0]}, "1 up to 63, not to 0"),
        ({"sample": 0}, "at least one vector, not 0"),
        ({"sample": 1}, "too few passages"),
    ],
)
def test_wrong_values_are_named(notes: LocalCollection, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        notes.reducer().evaluate(**wrong)


def test_deleted_passages_are_not_searched(notes: LocalCollection) -> None:
    notes.delete([f"d{number:05}" for number in range(500)])
    evaluation = notes.reducer().evaluate(dimensions=[8])
    assert (evaluation.passages, evaluation.fitted_on, evaluation.searched) == (100, 50, 50)


class FewBlocks:
    """A stand-in for a snapshot: an array, and a count of what was read of it at once."""

    def __init__(self, rows: Float32) -> None:
        self.rows = rows
        self.largest = 0

    def vectors(self, slots: Any) -> Float32:
        self.largest = max(self.largest, len(slots))
        part: Float32 = self.rows[slots]
        return part


def test_recall_is_that_of_whole_searches() -> None:
    rows, queries = wide(5_000, 96), wide(300, 96, seed=5)
    snapshot: Any = FewBlocks(rows)
    ways = [Way("full", "int8", 96), Way("cut", "fp16", 24), Way("full", "float32", 96)]
    lines = judge(snapshot, np.arange(5_000), queries, ways, k=10, passages=5_000, seed=0)
    exact = np.argsort(-(queries @ rows.T), axis=1)[:, :10].tolist()
    for way, told in zip(ways, lines, strict=True):
        scores = way.narrow(queries) @ way.stored(rows).T
        found = np.argsort(-scores, axis=1)[:, :10].tolist()
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
        assert told.recall == pytest.approx(recall, abs=1e-3)
    assert lines[1].recall < lines[0].recall < 1.001
    assert snapshot.largest <= 2_048


def test_equally_good_passages_count() -> None:
    rows = np.repeat(wide(20, 32), 15, axis=0)
    snapshot: Any = FewBlocks(rows)
    (told,) = judge(snapshot, np.arange(300), rows[::15], [Way("full", "int8", 32)], k=10, passages=300, seed=0)
    assert told.recall == 1.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Rivers carry silt. They end in the sea.", "Rivers carry silt."),
        ("  A title\nand more", "A title"),
        ("version 3.11 is here! Yes", "version 3.11 is here!"),
        ("no end", "no end"),
        ("   ", ""),
        ("a" * 400, "a" * 300),
    ],
)
def test_first_sentences(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence

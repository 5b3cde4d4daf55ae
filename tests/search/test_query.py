"""What can't be asked is refused by name; whatever a question holds, it is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.search.notes import NOTES

import embank
from embank.bank import Bank
from embank.errors import InvalidInput
from embank.search.settings import Mode
from embank.testing.fakes import HashModel


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"k": 0}, "k must"),
        ({"k": -3}, "k must"),
        ({"k": 10_001}, "k must"),
        ({"k": True}, "k must"),
        ({"k": 1.5}, "k must"),
        ({"k": "3"}, "k must"),
        ({"query": " \n\t"}, "empty"),
        ({"query": None}, "empty"),
        ({"query": b"rivers"}, "string"),
        ({"query": ["rivers"]}, "string"),
        ({"query": "x" * 1_000_001}, "1,000,000"),
        ({"query": "a\ud800"}, "surrogate"),
        ({"mode": "fuzzy"}, "mode must"),
        ({"min_score": "much"}, "min_score"),
        ({"min_score": float("nan")}, "min_score"),
        ({"min_score": True}, "min_score"),
        ({"neighbors": -1}, "neighbors"),
        ({"neighbors": 101}, "neighbors"),
        ({"highlight": 1}, "highlight"),
        ({"explain": "yes"}, "explain"),
        ({"per_document": 0}, "per_document"),
        ({"diversity": 1.01}, "diversity"),
        ({"diversity": None}, "diversity"),
        ({"dense_weight": 1.01}, "dense_weight"),
        ({"dense_weight": "much"}, "dense_weight"),
        ({"highlights": True}, "did you mean highlight"),
        ({"quux": 1}, "no option 'quux'"),
        ({"vector": [1.0, 2.0]}, "components"),
        ({"vector": "abc"}, "row of numbers"),
        ({"where": {"year": {"$what": 1}}}, "what"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(bank: Bank, asked: dict[str, Any], named: str) -> None:
    notes = bank.collection("notes")
    with pytest.raises(InvalidInput, match=named):
        notes.search(**{"query": "rivers", **asked})


@pytest.mark.parametrize(
    "text",
    [
        "rivers " * 14_000,
        "\0rivers\x07\x1b[2J\u202e",
        "(((",
        '"rivers',
        "rivers AND OR NOT +-~^:*?[]{}\\/",
        "🦀",
        "é" * 9,
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_any_text_is_a_question(bank: Bank, text: str, mode: Any) -> None:
    hits = bank.collection("notes").search(text, mode=mode, highlight=True, explain=True)
    assert ("a1" in [hit.id for hit in hits]) or (mode == "lexical" and "rivers" not in text)


@pytest.mark.parametrize("given", ["rivers", b"rivers", {"rivers"}, None, 3])
def test_many_questions_are_a_list(bank: Bank, given: Any) -> None:
    with pytest.raises(InvalidInput, match="list of questions"):
        bank.collection("notes").search_many(given)


@pytest.mark.parametrize("vectors", [np.ones(64), np.ones((1, 64)), [[1.0], [1.0, 2.0]], "ab"])
def test_vectors_of_many_are_one_for_each(bank: Bank, vectors: Any) -> None:
    with pytest.raises(InvalidInput, match="vectors must be"):
        bank.collection("notes").search_many(["rivers", "mountains"], vectors=vectors)


@pytest.mark.parametrize("fusion", ["scores", "coverage", "ranks"])
def test_a_question_may_weigh_its_sides_itself(tmp_path: Path, fusion: str) -> None:
    with embank.open(tmp_path / "bank", model=HashModel(), flags={"search.fusion": fusion}) as bank:
        bank.collection("notes").add(NOTES)
        search = bank.collection("notes").search
        ways = {weight: [hit.id for hit in search("silt rivers", k=2, dense_weight=weight)] for weight in (0.0, 1.0)}
        ends: tuple[tuple[float, Mode], ...] = ((0.0, "lexical"), (1.0, "dense"))
        for weight, mode in ends:
            alone = [hit.id for hit in search("silt rivers", k=2, mode=mode)]
            assert ways[weight][: len(alone)] == alone
        if fusion == "scores":
            hit = search("silt rivers", k=1, dense_weight=1)[0]
            assert hit.score == pytest.approx(hit.scores["dense"], abs=1e-3)
            assert hit.score != pytest.approx(search("silt rivers", k=1)[0].score, abs=1e-3)

"""Searches are judged by a user's own pairs, and tuned where that helps: durably, on record, and to be undone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

import embank
from embank.bank import Bank, LocalCollection
from embank.errors import BankReadOnly, CollectionNotFound, InvalidInput, SourceError
from embank.search.pairs import given, read
from embank.search.tuning import Way, choices, helps, tune
from embank.search.weights import Fusion
from embank.testing.fakes import HashModel

WORDS = [f"word{number}" for number in range(40)]


class Misled(HashModel):
    """Vectors that say nothing: those of questions have to do with no document."""

    def embed(self, texts: Sequence[str], kind: Literal["query", "passage"] = "passage") -> npt.NDArray[np.float32]:
        return super().embed([text[::-1] for text in texts] if kind == "query" else texts, kind)


def corpus() -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Documents, and questions that words alone lead to."""
    chance = random.Random(5)
    documents = [
        {"id": f"d{number}", "text": " ".join([f"key{number}", *chance.choices(WORDS, k=12)])} for number in range(60)
    ]
    pairs = [(f"key{number} {chance.choice(WORDS)}", f"d{number}") for number in range(30)]
    return documents, pairs


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    # Set so that the words hardly count: there is much to gain.
    with embank.open(tmp_path / "bank", model=Misled(), flags={"search.dense_weight": 1.0}) as opened:
        yield opened


@pytest.fixture
def notes(bank: Bank) -> LocalCollection:
    collection = bank.collection("notes")
    collection.add(corpus()[0])
    return collection


PAIRS = corpus()[1]


def test_evaluation_tells_the_ways_apart(notes: LocalCollection) -> None:
    report = notes.evaluate(PAIRS)
    assert (report.questions, report.missing, report.left_out, report.tuned) == (30, 0, 0, False)
    assert list(report.ways) == ["dense", "lexical", "hybrid"]
    assert report.ways["lexical"]["recall@1"].value == 1
    assert report.ways["dense"]["recall@1"].value < 0.5
    assert report.ways["hybrid"] == report.ways["dense"]  # as it was set
    hits = [[hit.id for hit in notes.search(question, k=10, mode="dense")] for question, _ in PAIRS]
    right = [ids[0] == wanted for ids, (_, wanted) in zip(hits, PAIRS, strict=True)]
    assert report.ways["dense"]["recall@1"].value == pytest.approx(np.mean(right))


def test_what_helps_is_kept_used_shown_and_taken_away(bank: Bank, notes: LocalCollection) -> None:
    question, wanted = PAIRS[7]
    before = notes.search(question, k=3)  # from now on kept among the results
    told = notes.tune(PAIRS, dry_run=True)
    assert told.outcome == "would be kept"
    assert notes.tuning() is None
    report = notes.tune(PAIRS)
    assert report.outcome == "kept"
    assert report.gain["MRR@10"].low > 0
    assert report.after["recall@1"].value > report.before["recall@1"].value
    kept = notes.tuning()
    assert kept is not None
    assert kept.fusion == report.fusion
    assert Fusion.from_dict(kept.fusion) != Fusion(dense_weight=1.0)
    assert notes.search(question, k=3)[0].id == wanted
    assert notes.evaluate(PAIRS).tuned
    assert notes.evaluate(PAIRS).ways["hybrid"]["recall@1"].value == pytest.approx(1)
    assert bank.audit()[0].act == "tune"
    assert bank.audit()[0].detail["gain"]["MRR@10"]["low"] > 0
    # Tuned again, there is nothing more to gain.
    assert notes.tune(PAIRS).outcome == "no gain"
    assert notes.tuning() == kept
    assert notes.untune() == kept
    assert notes.tuning() is None
    assert notes.search(question, k=3) == before
    assert bank.audit()[0].act == "untune"
    assert notes.untune() is None


def test_it_is_durable_and_seen_by_readers(tmp_path: Path, bank: Bank, notes: LocalCollection) -> None:
    question, wanted = PAIRS[9]
    with embank.open(tmp_path / "bank", model=Misled(), read_only=True, flags={"search.dense_weight": 1.0}) as reader:
        elsewhere = reader.collection("notes")
        assert elsewhere.search(question, k=1)[0].id != wanted or elsewhere.tuning() is None
        with pytest.raises(BankReadOnly):
            elsewhere.tune(PAIRS)
        notes.tune(PAIRS)
        assert elsewhere.search(question, k=1)[0].id == wanted
        assert elsewhere.tuning() == notes.tuning()
    bank.close()
    with embank.open(tmp_path / "bank", model=Misled(), flags={"search.dense_weight": 1.0}) as again:
        assert again.collection("notes").search(question, k=1)[0].id == wanted
        assert not again.verify(full=True).damaged


def test_weights_of_another_model_hold_no_longer(notes: LocalCollection) -> None:
    notes.tune(PAIRS)
    assert notes.tuning() is not None
    notes.reembed(HashModel(dimension=32))
    assert notes.tuning() is None
    assert notes.evaluate(PAIRS[:5]).tuned is False


def test_what_does_not_help_is_not_kept(notes: LocalCollection) -> None:
    chance = random.Random(1)
    nonsense = [(f"{chance.choice(WORDS)} {chance.choice(WORDS)}", f"d{number}") for number in range(30)]
    sequence = notes.stats()
    assert notes.tune(nonsense).outcome == "no gain"
    assert notes.tuning() is None
    assert notes.stats() == sequence


def test_chance_alone_is_hardly_ever_kept() -> None:
    """Every way is as good as every other: the best on what was seen is not the best on what was held out."""
    kept = 0
    for trial in range(20):
        chance = random.Random(trial)

        def rank(question: str, ways: Sequence[Way], k: int, chance: random.Random = chance) -> list[list[str]]:
            return [[str(each) for each in chance.sample(range(12), 10)] for _ in ways]

        questions = {f"q{number}": frozenset({"3"}) for number in range(40)}
        fusion, found, _ = tune(questions, rank, used=Fusion(), k=10)
        assert fusion in choices(Fusion())
        kept += helps(found["gain"], 10)
    assert kept <= 2


def test_documents_that_are_not_there_are_counted(notes: LocalCollection) -> None:
    report = notes.evaluate([*PAIRS[:25], ("what else", "gone"), (PAIRS[0][0], "gone too")])
    assert (report.questions, report.missing, report.left_out) == (25, 2, 1)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "no pair in it"),
        ("pairs", "can't be read"),
        ({"a": "b"}, "list of \\(question, id\\)"),
        ([("a",)], "pairs\\[0\\]: .* is no pair"),
        ([("a", 5)], "must be a document's id.*not 5"),
        ([("  ", "d1")], "must be words, not '  '"),
        ([{"question": "a"}], "not None"),
        ([("a", [])], "not \\[\\]"),
        ([("a", "gone")], "none of the documents that the pairs name \\('gone'"),
    ],
)
def test_bad_pairs_are_named(notes: LocalCollection, pairs: Any, said: str) -> None:
    with pytest.raises((InvalidInput, SourceError), match=said):
        notes.evaluate(pairs)


def test_too_few_questions_no_collection_and_a_bad_k(bank: Bank, notes: LocalCollection) -> None:
    with pytest.raises(InvalidInput, match=r"19 questions .* too few .* 20 at least"):
        notes.tune(PAIRS[:19])
    with pytest.raises(CollectionNotFound):
        bank.collection("nowhere").tune(PAIRS)
    with pytest.raises(CollectionNotFound):
        bank.collection("nowhere").untune()
    with pytest.raises(InvalidInput, match="k must be a whole number from 1 to 100, not 0"):
        notes.evaluate(PAIRS, k=0)
    own = bank.collection("own")
    own.add([{"id": "d1", "text": "key1"}], vectors=[[1.0, 0.0]])
    with pytest.raises(InvalidInput, match="no vectors of a model"):
        own.evaluate([("key1", "d1")])


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    lines: list[Any] = [{"question": "a", "id": "1"}, {"query": "b", "ids": ["2", "3"]}, {"question": "a", "id": "4"}]
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    assert read(file) == {"a": frozenset("14"), "b": frozenset("23")}
    assert read(file) == given(lines)
    file.write_text('{"question": "a", "id": "1"}\n{"question"\n')
    with pytest.raises(InvalidInput, match=r"pairs.jsonl, line 2 is no JSON"):
        read(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="not UTF-8"):
        read(file)

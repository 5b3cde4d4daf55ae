"""Many questions at once: the same answers as one by one, embedded in one batch, of one state."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embank
from embank.bank import Bank
from embank.embed.model import Kind
from embank.errors import CollectionNotFound, InvalidInput
from embank.events.kinds import SearchAnswered
from embank.testing.fakes import HashModel

QUESTIONS = ["silt in rivers", "mountains", "Schlamm", "mountains", "nothing of the kind"]


class Counting(HashModel):
    """Remembers the batches of questions that it embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Any:
        if kind == "query":
            self.batches.append(list(texts))
        return super().embed(texts, kind)


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_the_answers_are_those_of_a_loop_in_order(bank: Bank, mode: Any) -> None:
    notes = bank.collection("notes")
    many = notes.search_many(QUESTIONS, k=2, mode=mode, highlight=True)
    bank.clear_cache()
    assert many == [notes.search(question, k=2, mode=mode, highlight=True) for question in QUESTIONS]
    assert many == notes.search_many(QUESTIONS, k=2, mode=mode, highlight=True)  # now from the cache


def test_what_is_not_known_yet_is_embedded_in_one_batch(tmp_path: Path) -> None:
    model = Counting()
    with embank.open(tmp_path / "bank", model=model, flags={"cache.enabled": False}) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": "a", "text": "Rivers carry silt."}])
        notes.search("mountains")
        model.batches.clear()
        with bank.events.subscribe(kinds=[SearchAnswered]) as events:
            notes.search_many(QUESTIONS)
            told = [event.cached for event in events.drain() if isinstance(event, SearchAnswered)]
    assert model.batches == [["silt in rivers", "Schlamm", "nothing of the kind"]]
    assert told == [False, True, False, True, False]  # one was known, and one is asked twice


def test_vectors_stand_in_for_words(bank: Bank) -> None:
    rows = HashModel().embed(["rivers", "mountains"])
    hits = bank.collection("notes").search_many(["", "  "], vectors=rows, k=1)
    assert [found[0].id for found in hits] == ["a1", "a2"]
    assert set(hits[0][0].scores) == {"dense"}
    with pytest.raises(InvalidInput):
        bank.collection("notes").search_many(["rivers"], vectors=np.ones((1, 3)))


def test_words_beside_vectors_alone_are_searched_as_ever(bank: Bank) -> None:
    notes = bank.collection("notes")
    rows = HashModel().embed(["rivers", "mountains", "silt"])
    many = notes.search_many(["", "mountains", "silt"], vectors=rows)
    assert set(many[0][0].scores) == {"dense"}
    assert many[1] == notes.search("mountains", vector=rows[1])
    assert many[2][0].scores["lexical"] > 0


def test_who_asks_twice_gets_two_answers(bank: Bank) -> None:
    one, other = bank.collection("notes").search_many(["rivers", "rivers"], highlight=True, explain=True)
    assert [hit.id for hit in one] == [hit.id for hit in other]
    one.clear()
    assert len(other) == 3


def test_none_are_answered_with_none_and_nowhere_is_told(bank: Bank) -> None:
    assert bank.collection("notes").search_many([]) == []
    with pytest.raises(CollectionNotFound):
        bank.collection("nowhere").search_many(["rivers"])


def test_all_answers_are_of_one_state_beside_a_writer(bank: Bank) -> None:
    notes = bank.collection("notes")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            notes.add([{"id": "counter", "text": "counter", "metadata": {"number": number}}])

    notes.add([{"id": "counter", "text": "counter", "metadata": {"number": 0}}])
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            found = notes.search_many(["counter", "counter number", "the counter"], k=1, mode="lexical")
            assert len({hits[0].metadata["number"] for hits in found}) == 1
    finally:
        stop.set()
        writer.join()

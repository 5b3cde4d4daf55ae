"""Answers kept: the same as a search would give now, never one of a state before."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.search.notes import NOTES

import embank
from embank.bank import Bank
from embank.cache.weighed import WeighedStats
from embank.errors import CollectionNotFound, InvalidInput
from embank.events.kinds import SearchAnswered
from embank.testing.fakes import HashModel


def stats(bank: Bank) -> WeighedStats:
    found = bank.cache().results
    assert found is not None
    return found


def test_asked_again_the_answer_is_the_same_and_comes_from_the_cache(bank: Bank) -> None:
    notes = bank.collection("notes")
    with bank.events.subscribe(kinds=[SearchAnswered]) as events:
        first = notes.search("silt in rivers", k=3)
        assert notes.search("silt in rivers", k=3) == first
        told = [event.cached for event in events.drain() if isinstance(event, SearchAnswered)]
    assert told == [False, True]
    assert (stats(bank).hits, stats(bank).misses, stats(bank).entries) == (1, 1, 1)
    assert stats(bank).seconds_saved > 0


@pytest.mark.parametrize(
    "other",
    [
        {"query": "silt in river"},
        {"k": 2},
        {"mode": "dense"},
        {"mode": "lexical"},
        {"where": {"year": 2024}},
        {"where": {"year": {"$gte": 2020}}},
        {"vector": np.ones(64)},
    ],
)
def test_whatever_else_is_asked_is_another_question(bank: Bank, other: dict[str, Any]) -> None:
    notes = bank.collection("notes")
    asked: dict[str, Any] = {"query": "silt in rivers", "k": 3}
    notes.search(**asked)
    changed = notes.search(**{**asked, **other})
    assert (stats(bank).hits, stats(bank).entries) == (0, 2)
    bank.clear_cache()
    assert notes.search(**{**asked, **other}) == changed


def test_collections_do_not_answer_for_each_other(bank: Bank) -> None:
    bank.collection("other").add([{"id": "b", "text": "Rivers of another kind."}])
    assert bank.collection("notes").search("rivers", k=1)[0].id == "a1"
    assert bank.collection("other").search("rivers", k=1)[0].id == "b"


def test_each_vector_is_its_own_question(bank: Bank) -> None:
    notes = bank.collection("notes")
    rows = HashModel().embed(["rivers", "mountains"])
    assert notes.search(vector=rows[0], k=1)[0].id == "a1"
    assert notes.search(vector=rows[1], k=1)[0].id == "a2"
    assert notes.search(vector=rows[0].tolist(), k=1)[0].id == "a1"
    assert stats(bank).hits == 1


def test_every_acknowledged_change_is_seen_by_the_next_search(bank: Bank) -> None:
    notes = bank.collection("notes")

    def ids() -> list[str]:
        found = [hit.id for hit in notes.search("rivers", k=10)]
        assert found == [hit.id for hit in notes.search("rivers", k=10)]
        return found

    assert set(ids()) == {"a1", "a2", "a3"}
    notes.add([{"id": "a4", "text": "rivers rivers"}])
    assert ids()[0] == "a4"
    notes.add([{"id": "a4", "text": "nothing of the kind"}])
    assert ids()[0] == "a1"
    notes.add([{"id": "a1", "text": NOTES[0]["text"], "metadata": {"year": 1}}])  # other metadata only
    assert notes.search("rivers", k=1)[0].metadata == {"year": 1}
    notes.delete("a1")
    assert set(ids()) == {"a2", "a3", "a4"}
    notes.delete(where={"year": 2020})
    assert set(ids()) == {"a3", "a4"}
    assert stats(bank).entries == 2  # a question takes one place, whatever changes


def test_reembedding_changes_the_answers(bank: Bank) -> None:
    notes = bank.collection("notes")
    before = notes.search("rivers and mountains", mode="dense")
    notes.search("rivers and mountains", mode="dense")
    notes.reembed(HashModel(dimension=128, name="other"))
    after = notes.search("rivers and mountains", mode="dense")
    bank.clear_cache()
    assert after == notes.search("rivers and mountains", mode="dense")
    assert [hit.score for hit in after] != [hit.score for hit in before]


def test_answers_are_the_callers_own(bank: Bank) -> None:
    notes = bank.collection("notes")
    first = notes.search("rivers", k=3)
    second = notes.search("rivers", k=3)
    assert second == first
    for hits in (first, second):
        hit: Any = hits[0]
        hit.metadata["year"] = "changed"
        hit.metadata["tags"][1]["deep"] = "changed"
        hit.scores["dense"] = -1
        hits.clear()
    third = notes.search("rivers", k=3)
    assert third[0].metadata == NOTES[0]["metadata"]
    assert third[0].scores["dense"] > 0
    assert len(third) == 3
    assert stats(bank).hits == 2


def test_errors_are_not_kept_and_come_again(bank: Bank) -> None:
    notes = bank.collection("notes")
    for _ in range(2):
        with pytest.raises(InvalidInput):
            notes.search("rivers", where={"year": {"$what": 1}})
        with pytest.raises(InvalidInput):
            notes.search("rivers", where={"year": {1, 2}})
        with pytest.raises(CollectionNotFound):
            bank.collection("nowhere").search("rivers")
    assert stats(bank).entries == 0


def test_a_filter_that_is_none_is_refused_though_one_that_looks_like_it_was_answered(bank: Bank) -> None:
    notes = bank.collection("notes")
    bad: Any = {1: 2024}
    assert notes.search("rivers", where={"1": 2024}) == []
    with pytest.raises(InvalidInput):
        notes.search("rivers", where=bad)


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.5), (1, "1"), (None, "None")])
def test_filters_of_other_types_are_other_questions(bank: Bank, one: object, other: object) -> None:
    notes = bank.collection("notes")
    notes.add(
        [{"id": "one", "text": "x", "metadata": {"v": one}}, {"id": "other", "text": "x", "metadata": {"v": other}}]
    )
    for _ in range(2):
        assert [hit.id for hit in notes.search("x", where={"v": one})] == ["one"]
        assert [hit.id for hit in notes.search("x", where={"v": other})] == ["other"]


def test_no_answer_is_one_too(bank: Bank) -> None:
    notes = bank.collection("notes")
    for _ in range(2):
        assert notes.search("rivers", where={"year": 1900}) == []
    assert stats(bank).hits == 1
    notes.add([{"id": "old", "text": "An old note.", "metadata": {"year": 1900}}])
    assert [hit.id for hit in notes.search("rivers", where={"year": 1900})] == ["old"]


def test_turned_off_every_search_is_made(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel(), flags={"cache.results": False}) as bank:
        notes = bank.collection("notes")
        notes.add(NOTES)
        assert notes.search("rivers") == notes.search("rivers")
        assert bank.cache().results is None


def test_a_small_limit_is_kept_to(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel(), flags={"cache.results_limit": 5_000}) as bank:
        notes = bank.collection("notes")
        notes.add(NOTES)
        for number in range(50):
            notes.search(f"question {number}")
            assert stats(bank).used_bytes <= 5_000
        assert stats(bank).evictions > 0
        bank.release()
        assert stats(bank).used_bytes == 0


def test_another_process_that_writes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    with embank.open(path, model=HashModel()) as writer:
        writer.collection("notes").add(NOTES)
        with embank.open(path, model=HashModel(), read_only=True) as reader:
            notes = reader.collection("notes")
            assert len(notes.search("rivers")) == 3
            assert len(notes.search("rivers")) == 3
            writer.collection("notes").delete("a2")
            assert len(notes.search("rivers")) == 2


def test_beside_a_writer_no_search_misses_what_was_acknowledged_before_it(bank: Bank) -> None:
    notes = bank.collection("notes")
    acknowledged = 0
    stop = threading.Event()
    problems: list[str] = []

    def search() -> None:
        while not stop.is_set():
            least = acknowledged
            hits = notes.search("counter", k=1, where={"kind": "counter"})
            found = int(hits[0].metadata["number"]) if hits else 0
            if found < least:
                problems.append(f"{found} after {least}")

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 60):
        notes.add([{"id": "counter", "text": "counter", "metadata": {"kind": "counter", "number": number}}])
        acknowledged = number
        notes.search("counter", k=1, where={"kind": "counter"})
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert stats(bank).hits > 0
    assert stats(bank).stale > 0


def test_the_mode_that_answered_is_told_also_of_what_was_kept(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": "a", "text": "rivers"}], vectors=np.ones((1, 4)))
        with bank.events.subscribe(kinds=[SearchAnswered]) as events:
            for _ in range(2):
                notes.search("rivers")  # there is no model for such vectors: words alone
            told = [(event.mode, event.cached) for event in events.drain() if isinstance(event, SearchAnswered)]
    assert told == [("lexical", False), ("lexical", True)]

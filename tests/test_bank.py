"""What a user holds in the hand: a bank and its collections, with the fast model of the test kit."""

from __future__ import annotations

import _sqlite3
import ctypes
import gc
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embank
from embank.bank import Bank
from embank.collection import Collection
from embank.embed.files.catalog import WORDLLAMA
from embank.embed.files.locate import find_files
from embank.errors import (
    BudgetExceeded,
    DocumentNotFound,
    EmbeddingFailed,
    FingerprintMismatch,
    InvalidInput,
    ModelNotFound,
)
from embank.events.kinds import MemoryRecovered
from embank.testing.fakes import HashModel


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with embank.open(tmp_path / "bank", model=HashModel()) as opened:
        yield opened


NOTES = [
    {"id": "a1", "text": "Rivers carry silt to the sea.", "metadata": {"year": 2024, "lang": "en"}},
    {"id": "a2", "text": "Mountains rise where plates meet.", "metadata": {"year": 2020, "lang": "en"}},
    {"id": "a3", "text": "Flüsse tragen Schlamm ins Meer.", "metadata": {"year": 2019, "lang": "de"}},
]


def test_the_example_of_the_readme(bank: Bank) -> None:
    notes = bank.collection("notes")
    report = notes.add(NOTES)
    assert (report.seen, report.added, report.chunks) == (3, 3, 3)
    hits = notes.search("what do rivers carry?", k=2, where={"year": {"$gte": 2020}})
    assert [hit.id for hit in hits] == ["a1", "a2"]
    assert hits[0].text == "Rivers carry silt to the sea."
    assert (hits[0].chunk, hits[0].start, hits[0].end) == (0, 0, 29)
    assert hits[0].metadata == {"year": 2024, "lang": "en"}
    assert set(hits[0].scores) == {"dense", "lexical"}
    memory = bank.memory()
    assert memory.real_bytes <= memory.budget_bytes


def test_a_local_collection_follows_the_protocol(bank: Bank) -> None:
    collection: Collection = bank.collection("notes")
    assert collection.count() == 0
    assert collection.stats() is None


def test_adding_again_embeds_nothing(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add(NOTES)
    report = notes.add(NOTES)
    assert (report.unchanged, report.embedded, report.commits) == (3, 0, 0)


def test_new_metadata_is_written_without_embedding(tmp_path: Path) -> None:
    model = HashModel()
    calls: list[int] = []
    embed = model.embed

    class Counting(HashModel):
        def embed(self, texts: Any, kind: Any = "passage") -> Any:
            calls.append(len(texts))
            return embed(texts, kind)

    with embank.open(tmp_path / "bank", model=Counting()) as bank:
        notes = bank.collection("notes")
        notes.add(NOTES)
        report = notes.add([{**NOTES[0], "metadata": {"year": 1}}, NOTES[1], {**NOTES[2], "text": "changed"}])
        assert (report.relabeled, report.unchanged, report.updated) == (1, 1, 1)
        assert calls == [3, 1]
        assert notes.get("a1")[0].metadata == {"year": 1}


def test_of_duplicate_ids_the_last_stands(bank: Bank) -> None:
    notes = bank.collection("notes")
    report = notes.add([{"id": "x", "text": "first"}, {"id": "y", "text": "other"}, {"id": "x", "text": "last"}])
    assert (report.added, report.duplicates) == (2, 1)
    assert notes.get("x")[0].text == "last"
    assert notes.count() == 2


def test_texts_alone_are_known_by_their_content(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add(["one text", "another text"])
    assert notes.add(["one text"]).unchanged == 1
    assert notes.count() == 2


def test_long_texts_become_passages_of_one_document(bank: Bank) -> None:
    notes = bank.collection("notes")
    filler = "Filler words follow. " * 30
    text = "\n\n".join(f"Paragraph {number} is about topic{number}. {filler}" for number in range(9))
    report = notes.add([{"id": "long", "text": text}])
    assert report.chunks > 3
    (hit,) = notes.search("topic7", k=5)
    assert "topic7" in hit.text
    assert text[hit.start : hit.end] == hit.text
    assert notes.get("long")[0].chunks == report.chunks


def test_a_blank_text_is_kept_but_found_by_nothing(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add([{"id": "blank", "text": " \n "}, {"id": "b", "text": "words"}])
    assert notes.get("blank")[0].text == " \n "
    assert [hit.id for hit in notes.search("words", k=10)] == ["b"]


def test_get_names_what_is_missing(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add(NOTES)
    with pytest.raises(DocumentNotFound, match="no document 'nope', 'zip'"):
        notes.get(["a1", "zip", "nope"])


def test_delete_by_ids_and_by_filter(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add(NOTES)
    assert notes.delete(where={"lang": "de"}) == 1
    assert notes.delete(["a1", "gone"]) == 1
    assert [document.id for document in notes.list()] == ["a2"]
    with pytest.raises(InvalidInput, match="either ids or where"):
        notes.delete()
    assert [row.act for row in bank.audit()] == ["delete", "delete"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"query": ""}, "query is empty"),
        ({"query": " \n"}, "query is empty"),
        ({"query": "\ud800"}, "lone surrogate"),
        ({"query": "x", "k": 0}, "k must be a whole number from 1"),
        ({"query": "x", "k": -3}, "k must be"),
        ({"query": "x", "k": True}, "k must be"),
        ({"query": "x", "mode": "magic"}, "mode must be one of hybrid, dense, lexical"),
        ({"query": 5}, "must be a string"),
        ({"vector": [math.nan] * 64}, "finite numbers"),
        ({"vector": [0.0] * 64}, "not all zero"),
        ({"vector": [1.0] * 3}, "has 3 components"),
        ({"vector": "abc"}, "row of numbers"),
        ({"query": "x", "where": {"year": {"$almost": 1}}}, "not known"),
    ],
)
def test_bad_searches_are_named(bank: Bank, arguments: dict[str, Any], said: str) -> None:
    notes = bank.collection("notes")
    notes.add(NOTES)
    with pytest.raises(InvalidInput, match=said):
        notes.search(**arguments)


def test_k_beyond_the_collection_gives_all(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add(NOTES)
    assert len(notes.search("sea", k=1000)) == 3


def test_each_document_comes_once_however_many_passages_match(bank: Bank) -> None:
    notes = bank.collection("notes")
    long_text = "\n\n".join("rivers and more rivers. " * 40 for _ in range(30))
    notes.add([{"id": "long", "text": long_text}] + [{"id": f"d{number}", "text": "a river"} for number in range(20)])
    for mode in ("hybrid", "dense", "lexical"):
        ids = [hit.id for hit in notes.search("rivers", k=15, mode=mode)]
        assert len(ids) == len(set(ids)) == 15


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"id": "", "text": "x"}, "not empty"),
        ({"id": 7, "text": "x"}, "must be a string that is not empty, not 7"),
        ({"id": "x" * 2000, "text": "x"}, "at most 1024 bytes"),
        ({"id": "nul\0", "text": "x"}, "NUL"),
        ({"id": "a", "text": "\ud800"}, "lone surrogate"),
        ({"id": "a", "text": None}, "must be a string, not NoneType"),
        ({"id": "a", "text": "x" * 5_000_000}, "at most 4,194,304 bytes"),
        ({"id": "a", "text": "x", "metadata": {"n": math.inf}}, "metadata can't be kept"),
        ({"id": "a", "text": "x", "metadata": {"n": {1, 2}}}, "metadata can't be kept"),
        ({"id": "a", "text": "x", "metadata": {1: 2}}, "string keys"),
        ({"id": "a", "text": "x", "metadata": {"n": "x" * 70_000}}, "at most 65,536"),
        ({"id": "a", "text": "x", "year": 2020}, "put further values into metadata"),
        (3, "must be a mapping"),
    ],
)
def test_one_bad_document_means_that_nothing_is_written(bank: Bank, document: Any, said: str) -> None:
    notes = bank.collection("notes")
    with pytest.raises(InvalidInput, match=said):
        notes.add([*NOTES, document])
    assert notes.count() == 0


def test_a_single_document_is_no_list_of_documents(bank: Bank) -> None:
    for single in ("text", NOTES[0]):
        with pytest.raises(InvalidInput, match="must be a list"):
            bank.collection("notes").add(single)


def test_own_vectors(bank: Bank) -> None:
    own = bank.collection("own")
    vectors = np.eye(4) * 3
    own.add([{"id": name, "text": f"document {name}"} for name in "abcd"], vectors=vectors, space="mine")
    assert [hit.id for hit in own.search(vector=[0, 0, 1, 0.5], k=2)] == ["c", "d"]
    assert [hit.id for hit in own.search("document b", mode="lexical", k=1)] == ["b"]
    assert own.stats().fingerprint == "user:mine:4"  # type: ignore[union-attr]  # it was just written
    assert own.add([{"id": "a", "text": "document a"}], vectors=[[9, 0, 0, 0]], space="mine").unchanged == 1
    with pytest.raises(FingerprintMismatch, match="vectors of your own"):
        own.add(["a text to embed"])
    with pytest.raises(FingerprintMismatch, match="user:mine:4, these are of user:other:4"):
        own.add(["x"], vectors=[[1, 0, 0, 0]], space="other")
    with pytest.raises(InvalidInput, match=r"give vector=, or mode='lexical'"):
        own.search("words", mode="dense")


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1.0, 2.0]], "one row for each of the 2"),
        ([1.0, 2.0], "one row for each"),
        ([[1.0], [math.nan]], r"vectors\[1\] holds a value that is not finite"),
        ([[0.0], [1.0]], r"vectors\[0\].*only zeros"),
        ([[1.0], [1.0, 2.0]], "rows of numbers"),
        ([["a"], ["b"]], "rows of numbers"),
    ],
)
def test_bad_vectors_are_named(bank: Bank, vectors: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        bank.collection("own").add(["x", "y"], vectors=vectors)


def test_another_model_does_not_mix(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        bank.collection("notes").add(NOTES)
    with embank.open(tmp_path / "bank", model=HashModel(name="other")) as bank:
        for act in (lambda: bank.collection("notes").add(["x"]), lambda: bank.collection("notes").search("x")):
            with pytest.raises(FingerprintMismatch):
                act()
        assert len(bank.collection("notes").search("rivers", mode="lexical")) == 1


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model="minilmm") as bank, pytest.raises(ModelNotFound, match="minilm"):
        bank.collection("notes").add(["x"])


def test_a_model_asked_for_is_taken_at_its_word(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        bank.collection("notes").add(NOTES)
    with embank.open(tmp_path / "bank", model="nonsense") as bank, pytest.raises(ModelNotFound, match="nonsense"):
        bank.collection("notes").search("rivers")


@pytest.mark.parametrize("wrong", ["nan", "width", "count"])
def test_a_model_that_answers_wrongly_stores_nothing(tmp_path: Path, wrong: str) -> None:
    class Wrong(HashModel):
        def embed(self, texts: Any, kind: Any = "passage") -> Any:
            vectors = super().embed(texts, kind)
            if wrong == "nan":
                vectors[0, 0] = np.nan
            return {"nan": vectors, "width": vectors[:, :-1], "count": vectors[:-1]}[wrong]

    with embank.open(tmp_path / "bank", model=Wrong()) as bank:
        with pytest.raises(EmbeddingFailed):
            bank.collection("notes").add(NOTES)
        assert bank.collection("notes").count() == 0


def test_work_that_can_not_fit_is_refused_before_it_starts(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel(), memory=200_000) as bank:
        with pytest.raises(BudgetExceeded, match=r"raise memory\.budget"):
            bank.collection("notes").add([{"id": str(number), "text": "word " * 4000} for number in range(50)])
        assert bank.collection("notes").count() == 0


def test_reading_beside_a_writer(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        bank.collection("notes").add(NOTES)
        with embank.open(tmp_path / "bank", model=HashModel(), read_only=True) as reader:
            assert [hit.id for hit in reader.collection("notes").search("rivers", k=1)] == ["a1"]
            bank.collection("notes").add([{"id": "new", "text": "rivers rivers rivers"}])
            assert reader.collection("notes").search("rivers", k=1)[0].id == "new"
            assert reader.collection("notes").count() == 4


def test_on_commit_tells_what_is_durable(bank: Bank) -> None:
    told: list[str] = []
    notes = bank.collection("notes")
    documents = ({"id": f"d{number}", "text": f"text {number}"} for number in range(600))

    def on_commit(ids: Any) -> None:
        assert {document.id for document in notes.get(list(ids))} == set(ids)
        told.extend(ids)

    report = notes.add(documents, on_commit=on_commit)
    assert report.commits == 3
    assert told == [f"d{number}" for number in range(600)]


def test_a_bad_document_in_an_iterator_keeps_the_windows_before_it(bank: Bank) -> None:
    notes = bank.collection("notes")
    documents = ({"id": f"d{number}", "text": "x" if number < 300 else None} for number in range(600))
    with pytest.raises(InvalidInput, match="must be a string"):
        notes.add(documents)
    assert notes.count() == 256


def test_release_gives_memory_back_and_the_bank_goes_on(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add(NOTES)
    notes.search("rivers")
    assert bank.release() >= 0
    assert all(held == 0 for name, held in bank.memory().consumers if name.startswith("lexical"))
    assert notes.search("rivers", k=1)[0].id == "a1"


def test_release_asks_everybody_though_the_host_holds_less_than_when_the_bank_was_opened(tmp_path: Path) -> None:
    hosts_own = b"x" * 100_000_000
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        bank.collection("notes").add(NOTES)
        bank.collection("notes").search("rivers")
        del hosts_own
        assert dict(bank.memory().consumers)["lexical writer notes"] > 0
        bank.release()
        assert dict(bank.memory().consumers)["lexical writer notes"] == 0


def test_release_gives_the_databases_pages_back_and_it_goes_on(bank: Bank) -> None:
    library = ctypes.CDLL(_sqlite3.__file__)
    if not hasattr(library, "sqlite3_memory_used"):
        pytest.skip("this SQLite can't be asked what it holds")
    library.sqlite3_memory_used.restype = ctypes.c_int64
    notes = bank.collection("notes")
    gc.collect()
    before = library.sqlite3_memory_used()
    notes.add([{"id": f"d{number}", "text": f"{number} rivers " * 100} for number in range(1_000)])
    assert len(notes.list(limit=1_000)) == 1_000
    assert library.sqlite3_memory_used() > before + 1_000_000
    bank.release()
    assert library.sqlite3_memory_used() < before + 200_000
    notes.delete("d0")
    assert len(notes.list(limit=1_000)) == 999


def test_settings_reach_their_rooms(tmp_path: Path) -> None:
    flags = {"store.dtype": "int8", "chunk.max_tokens": 8}
    with embank.open(tmp_path / "bank", model=HashModel(), flags=flags) as bank:
        report = bank.collection("notes").add([{"id": "a", "text": "one two three four five. " * 4}])
        assert report.chunks == 3
        assert bank.collections()[0].dtype == "int8"
        assert bank.collection("notes").search("two three", k=1)[0].id == "a"


def test_a_banks_calls_are_cleaned_up_after_and_each_is_told(tmp_path: Path) -> None:
    flags = {"recovery.every_calls": 2, "recovery.least_interval_s": 0, "recovery.idle_s": ""}
    if find_files(WORDLLAMA, directory=tmp_path) is None:
        pytest.skip("the package wordllama is not installed")
    with (
        embank.open(tmp_path / "bank", model="wordllama", flags=flags) as bank,
        bank.events.subscribe(kinds=[MemoryRecovered]) as told,
    ):
        notes = bank.collection("notes")
        notes.add(NOTES)
        notes.search("rivers")
        (made,) = told.drain(wait_s=10)
        assert isinstance(made, MemoryRecovered)
        assert (made.trigger, made.ok) == ("calls", True)
        bank.release()
        assert "hand" in [event.trigger for event in told.drain() if isinstance(event, MemoryRecovered)]
    assert not [thread for thread in threading.enumerate() if thread.name == "embank-recovery"]

"""Languages, titles, phrases, beginnings, stop words and filters, through a stored collection."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import tantivy
from hypothesis import given, settings
from hypothesis import strategies as st

from embank.errors import BankReadOnly
from embank.records import Chunk, Document
from embank.store.collection import StoredCollection
from embank.store.lexical import LexicalIndex, Mark, Recipe
from embank.store.lexicalsearch import LexicalSearcher
from embank.store.protocol import Batch, Upsert
from embank.store.words import Language

from .conftest import MODEL, SPACE, OpenStore, words, write

SIGNS = [
    '"',
    "“",
    "”",
    "*",
    "(",
    ")",
    "[",
    "^2",
    "~",
    ":",
    "+",
    "-",
    "\\",
    "/",
    "AND ",
    " OR",
    "\0",
    "\n",
    "TO ",
    "IN [",
]
QUESTIONS = st.lists(
    st.one_of(st.sampled_from([*SIGNS, "river", "the ", "to be", "ri", "都", "é", " "]), st.text(max_size=4)),
    max_size=30,
).map("".join)


def searcher(*texts: str, language: Language = "english", titles: tuple[str, ...] = ()) -> LexicalSearcher:
    index = LexicalIndex(None, writer_bytes=15_000_000, recipe=Recipe(language))
    rows = [(slot, text, titles[slot] if titles else "") for slot, text in enumerate(texts)]
    index.apply(removed=(), added=rows, mark=Mark("v", 1, len(texts)))
    index.close_writer()
    return index.searcher()


def found(looks: LexicalSearcher, text: str, k: int = 10) -> list[int]:
    return [int(slot) for slot in looks.search(text, k, allowed=None, below=1_000_000).slots]


def write_titled(notes: StoredCollection, name: str, text: str, title: object) -> None:
    document = Document(name, text, {"title": title})
    upsert = Upsert(document, text.encode(), [Chunk(text, 0, len(text))])
    notes.commit(Batch(None, [upsert], MODEL.embed([text])), SPACE)


def relabel(notes: StoredCollection, name: str, title: object) -> None:
    none = np.empty((0, MODEL.dimension), np.float32)
    notes.commit(Batch(None, [], none, [Document(name, "", {"title": title})]), None)


# --- questions ---


def test_stop_words_count_only_where_there_is_nothing_else() -> None:
    looks = searcher(
        "to be or not to be, that is the question", "the river is in the valley", "be good, or not", "hats"
    )
    assert found(looks, "to be or not to be")[0] == 0
    assert found(looks, "the river") == [1]
    assert found(looks, "the") == [1, 0] or found(looks, "the") == [0, 1]


def test_a_phrase_comes_first_and_its_words_still_count() -> None:
    looks = searcher("old mill by the river", "the mill is old, the old mills", "a mill grows old", "silt")
    assert found(looks, '"mill is old"')[0] == 1
    assert sorted(found(looks, '"mill is old"')) == [0, 1, 2]
    assert sorted(found(looks, '"river mill"')) == [0, 1, 2]


def test_a_beginning_finds_all_that_begins_so() -> None:
    looks = searcher("an embedding", "embedded systems", "a bed", "he parsed it", "embers")
    assert sorted(found(looks, "embed*")) == [0, 1]
    assert sorted(found(looks, "emb*")) == [0, 1, 4]
    assert found(looks, "parsi*") == [3]
    assert found(looks, "e*") == []


def test_text_without_spaces_is_found_by_a_part_of_it() -> None:
    looks = searcher("東京都に住んでいる", "京都の寺", "大阪", "서울에서 살다", "ภาษาไทย")
    assert found(looks, "京都")[0] == 1
    assert sorted(found(looks, "都")) == [0, 1]
    assert found(looks, "서울") == [3]
    assert found(looks, "ไทย") == [4]
    assert found(looks, "阪") == [2]


def test_trigrams_find_any_part() -> None:
    looks = searcher("getHttpResponse", "GATTACA", "tac", language="trigrams")
    assert found(looks, "response") == [0]
    assert found(looks, "TTAC")[0] == 1
    assert found(looks, "ca") == [1]


def test_a_title_counts_as_its_boost_says() -> None:
    texts, titles = ("it carries silt", "rivers and rivers"), ("Rivers", "")
    index = LexicalIndex(None, writer_bytes=15_000_000, title_boost=5)
    rows = [(slot, text, title) for slot, (text, title) in enumerate(zip(texts, titles, strict=True))]
    index.apply(removed=(), added=rows, mark=Mark("v", 1, 2))
    assert found(index.searcher(), "rivers") == [0, 1]
    assert found(index.searcher(), '"rivers" silt') == [0, 1]
    passed_over = LexicalIndex(None, writer_bytes=15_000_000, title_boost=0)
    passed_over.apply(removed=(), added=rows, mark=Mark("v", 1, 2))
    assert found(passed_over.searcher(), "rivers") == [1]


def test_terms_tell_how_many_passages_have_a_word() -> None:
    looks = searcher("rivers carry silt", "the river runs", "the sea")
    assert looks.terms("The rivers, the zebra") == [("river", 2), ("zebra", 0)]
    assert looks.terms("the") == [("the", 2)]


def test_of_a_long_question_the_rarest_words_count() -> None:
    texts = [" ".join(f"w{number}" for number in range(200) if number >= slot) for slot in range(200)]
    looks = searcher(*texts)
    # `wN` is in N + 1 passages, the first.
    assert sorted(found(looks, " ".join(f"w{number}" for number in range(200)), 300)) == list(range(64))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
@pytest.mark.parametrize("k", [1, 7, 400])
def test_what_is_allowed_is_found_as_if_there_were_nothing_else(share: float, k: int) -> None:
    chosen = np.random.default_rng(3)
    texts = [" ".join(chosen.choice(["river", "silt", "mill", "sea", "old"], 6)) for _ in range(600)]
    looks = searcher(*texts)
    allowed = chosen.random(600) < share
    every = looks.search("river silt sea", 600, allowed=None, below=600)
    keep = allowed[every.slots]
    answer = looks.search("river silt sea", k, allowed=allowed, below=600)
    assert answer.scores.tolist() == every.scores[keep][:k].tolist()
    assert set(answer.slots.tolist()) <= set(np.flatnonzero(allowed).tolist())


ODD = searcher("river", "the river to be", "silt 都市 café", titles=("to be", "", "the river"))


@settings(max_examples=200, deadline=None)
@given(QUESTIONS)
def test_any_text_is_a_question(text: str) -> None:
    answer = ODD.search(text, 3, allowed=None, below=3)
    assert len(set(answer.slots.tolist())) == len(answer.slots) <= 3
    assert np.isfinite(answer.scores).all()
    assert len(ODD.search(text + " river", 3, allowed=None, below=3).slots) >= 2


@pytest.mark.parametrize("bomb", ["a*" * 50_000, '"' * 99_999, "都" * 100_000, '"to be" ' * 20_000, "(a+)+$" * 20_000])
def test_questions_of_100_kb(bomb: str) -> None:
    assert len(ODD.search(bomb, 3, allowed=None, below=3).slots) <= 3


# --- languages ---


def test_another_language_builds_the_view_anew(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write(notes, {"a": "die Häuser am Fluss", "b": "the houses"})
    assert words(notes, "häusern") == []
    store.set_language("notes", "german")
    assert words(notes, "häusern") == ["a"]
    store.close()
    again = open_store()
    assert words(again.collection("notes"), "häusern") == ["a"]
    assert [row.act for row in again.audit()] == ["set language"]


def test_new_collections_have_the_language_of_the_settings(open_store: OpenStore) -> None:
    notes = open_store(settings={"lexical_language": "german"}).collection("notes")
    write(notes, {"a": "die Häuser"})
    assert words(notes, "häusern") == ["a"]


def test_a_reader_cuts_words_as_the_index_was_written(open_store: OpenStore) -> None:
    store = open_store()
    store.set_language("notes", "german")
    notes = store.collection("notes")
    reader = open_store(read_only=True)
    write(notes, {"a": "die Häuser"})
    assert words(reader.collection("notes"), "häusern") == ["a"]  # nothing on disk yet
    assert words(notes, "häusern") == ["a"]
    write(notes, {"b": "alte Häuser"})
    assert sorted(words(reader.collection("notes"), "häusern")) == ["a", "b"]
    reader.set_language("notes", "german")
    with pytest.raises(BankReadOnly):
        reader.set_language("notes", "french")


# --- titles ---


def test_a_new_title_of_an_old_passage_is_found(open_store: OpenStore) -> None:
    store = open_store()
    notes = store.collection("notes")
    write_titled(notes, "a", "it carries silt", "Rivers")
    write_titled(notes, "b", "it is salty", 7)
    assert words(notes, "rivers") == ["a"]
    relabel(notes, "a", "Streams")
    relabel(notes, "b", "Seas")
    assert words(notes, "rivers") == []
    assert words(notes, "streams") == ["a"]
    assert words(notes, "seas salty silt") in (["b", "a"], ["a", "b"])
    relabel(notes, "a", None)
    notes.delete(["b"])
    assert words(notes, "streams seas") == []
    assert words(notes, "silt") == ["a"]
    notes.compact()
    assert words(notes, "silt") == ["a"]
    with sqlite3.connect(store.root / "bank.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM retitled").fetchone() == (0,)


# --- earlier versions ---


def write_first_schema(folder: Path, name: str) -> None:
    """An index as version 1 of the schema was."""
    shutil.rmtree(folder)
    folder.mkdir()
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=False, tokenizer_name="embank_english_1", index_option="freq")
    builder.add_integer_field("slot", stored=False, indexed=True, fast=True)
    builder.add_text_field("kind", stored=False, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("mark", stored=True, tokenizer_name="raw", index_option="basic")
    index = tantivy.Index(builder.build(), str(folder))
    index.register_tokenizer("embank_english_1", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).build())
    writer = index.writer(15_000_000, 1)
    document = tantivy.Document()
    document.add_text("kind", "mark")
    document.add_text("mark", f'{{"view": "{name}", "sequence": 1, "slots": 1, "schema": 1}}')
    writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()


def test_an_index_of_the_first_schema_is_built_again(open_store: OpenStore) -> None:
    store = open_store()
    write(store.collection("notes"), {"a": "rivers carry silt"})
    bank = store._shared.bank
    store.close()
    folder = store.root / "views" / "1-0" / "lexical"
    write_first_schema(folder, f"{bank}:1:0")
    assert words(open_store(read_only=True).collection("notes"), "silt") == ["a"]
    again = open_store()
    assert words(again.collection("notes"), "silt") == ["a"]
    assert LexicalIndex(folder, writer_bytes=15_000_000).mark(f"{bank}:1:0").slots == 1


def test_other_keys_of_titles_build_the_view_anew(open_store: OpenStore) -> None:
    store = open_store()
    write_titled(store.collection("notes"), "a", "it carries silt", "Rivers")
    assert words(store.collection("notes"), "rivers") == ["a"]
    store.close()
    notes = open_store(settings={"lexical_titles": ("heading",)}).collection("notes")
    assert words(notes, "rivers") == []
    assert words(notes, "silt") == ["a"]

"""Words that match are marked where they stand, in whatever form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embank.bank import Bank
from embank.records import Hit
from embank.search.highlight import spans
from embank.store.asking import asked
from embank.store.words import Words

WORDS = Words()


def marked(hit: Hit) -> list[str]:
    return [hit.text[start:end] for start, end in hit.highlights]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_other_forms_of_a_word_match(bank: Bank, mode: Any) -> None:
    notes = bank.collection("notes")
    text = "He RUNS daily. The runner was running; they run, café-runs too."
    notes.add([{"id": "r", "text": text}])
    hit = next(hit for hit in notes.search("running cafe", mode=mode, highlight=True) if hit.id == "r")
    assert marked(hit) == ["RUNS", "running", "run", "café", "runs"]


def test_they_are_places_in_the_document(bank: Bank) -> None:
    notes = bank.collection("notes")
    text = " ".join(f"Sentence number {number} is about nothing at all, is it." for number in range(120))
    notes.add([{"id": "long", "text": f"{text} A zebra 🦓 and more zebras. {text}"}])
    (hit,) = notes.search("zebras", mode="lexical", highlight=True)
    assert hit.start > 0
    (document,) = notes.get("long")
    found = [document.text[hit.start + start : hit.start + end] for start, end in hit.highlights]
    assert found == ["zebra", "zebras"]


def test_kept_answers_have_them_too_and_only_where_they_are_wanted(bank: Bank) -> None:
    notes = bank.collection("notes")
    first = notes.search("rivers", highlight=True)
    assert notes.search("rivers", highlight=True) == first
    assert first[0].highlights == ((0, 6),)
    assert all(hit.highlights == () for hit in notes.search("rivers"))


def test_words_of_scripts_with_marks_within_are_whole(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add([{"id": "hi", "text": "नदियाँ गाद को समुद्र तक ले जाती हैं।"}])
    (hit,) = notes.search("समुद्र", mode="lexical", highlight=True)
    assert marked(hit) == ["समुद्र"]


@given(st.text(max_size=60), st.lists(st.sampled_from(["a", "b", "river", "x1", "ri*"]), max_size=3))
def test_spans_ascend_lie_within_and_are_of_what_is_asked(text: str, wanted: list[str]) -> None:
    whole = f"{text} River b"
    found = spans(whole, asked(" ".join(wanted), WORDS), WORDS)
    edges = [edge for span in found for edge in span]
    assert edges == sorted(edges)
    assert all(0 <= start < end <= len(whole) for start, end in found)
    assert (not {"river", "ri*"}.isdisjoint(wanted)) == ((len(whole) - 7, len(whole) - 2) in found)

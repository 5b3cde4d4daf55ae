"""Pages: together they are the whole answer, whatever is written meanwhile."""

from __future__ import annotations

import base64
import random
from pathlib import Path
from typing import Any

import pytest

import embank
from embank.bank import Bank
from embank.errors import InvalidInput
from embank.records import MAX_DEPTH
from embank.testing.fakes import HashModel

WORDS = ["river", "silt", "sea", "bread", "yeast", "mountain", "plate", "winter"]


def fill(bank: Bank, count: int, *, seed: int = 1) -> list[str]:
    dice = random.Random(seed)
    documents = [
        {"id": f"d{n}", "text": " ".join(dice.choices(WORDS, k=6)), "metadata": {"n": n}} for n in range(count)
    ]
    bank.collection("many").add(documents)
    return [str(document["id"]) for document in documents]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_pages_put_together_are_one_search(tmp_path: Path, mode: Any) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        fill(bank, 60)
        many = bank.collection("many")
        whole = [hit.id for hit in many.search("river silt", k=50, mode=mode)]
        paged: list[str] = []
        after = None
        while len(paged) < 50:
            found = many.search_page("river silt", k=7, after=after, mode=mode)
            paged += [hit.id for hit in found.hits]
            after = found.after
            if after is None:
                break
        assert paged[: len(whole)] == whole


def test_the_last_page_says_so(bank: Bank) -> None:
    notes = bank.collection("notes")
    first = notes.search_page("rivers", k=2)
    assert first.after is not None
    second = notes.search_page("rivers", k=2, after=first.after)
    assert second.after is None
    assert {hit.id for hit in [*first.hits, *second.hits]} == {"a1", "a2", "a3"}
    assert notes.search_page("rivers", k=2, where={"year": 1}).after is None


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_beside_a_writer_none_comes_twice_and_none_that_stayed_is_left_out(tmp_path: Path, mode: Any) -> None:
    """After each page documents are added before and behind it, written anew, and deleted, so that all scores move."""
    dice = random.Random(7)
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        names = fill(bank, 40)
        many = bank.collection("many")
        # In a search for words alone only those that have any are found.
        at_first = {hit.id for hit in many.search("river silt sea", k=100, mode=mode)}
        touched: set[str] = set()
        paged: list[str] = []
        after = None
        for turn in range(100):
            found = many.search_page("river silt sea", k=4, after=after, mode=mode)
            paged += [hit.id for hit in found.hits]
            after = found.after
            if after is None:
                break
            if turn < 8:
                changed, gone = dice.sample(names, 2)
                touched |= {changed, gone}
                many.add([{"id": changed, "text": " ".join(dice.choices(WORDS, k=4))}])
                many.delete(gone)
                many.add([{"id": f"new{turn}", "text": "river silt sea " * dice.randint(1, 3)}])
        assert after is None
        assert len(paged) == len(set(paged))
        assert at_first - touched <= set(paged)


def test_another_process_goes_on_and_likeness_has_pages_too(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        fill(bank, 12)
        first = bank.collection("many").search_page(like="d3", k=5)
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        second = bank.collection("many").search_page(like="d3", k=5, after=first.after)
    ids = [hit.id for hit in [*first.hits, *second.hits]]
    assert len(set(ids)) == 10
    assert "d3" not in ids


def test_the_number_of_hits_and_how_they_look_may_change(bank: Bank) -> None:
    notes = bank.collection("notes")
    first = notes.search_page("rivers", k=1)
    second = notes.search_page("rivers", k=2, after=first.after, highlight=True, explain=True, neighbors=1)
    assert len(second.hits) == 2
    assert second.explained is not None


def test_a_damaged_cursor_is_told(bank: Bank) -> None:
    notes = bank.collection("notes")
    after = notes.search_page("rivers", k=1).after
    assert after is not None
    whole = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4))
    for place in range(len(whole)):
        bad = bytearray(whole)
        bad[place] ^= 4
        with pytest.raises(InvalidInput, match="after is"):
            notes.search_page("rivers", k=1, after=base64.urlsafe_b64encode(bad).decode().rstrip("="))
    for text in ("", "x", "%%%", after[:-3], after + "AAAA", "é", "A" * 5_000):
        with pytest.raises(InvalidInput, match="after is"):
            notes.search_page("rivers", k=1, after=text)
    not_text: Any = 7
    with pytest.raises(InvalidInput, match="after must"):
        notes.search_page("rivers", k=1, after=not_text)


@pytest.mark.parametrize(
    "other", [{"query": "river"}, {"mode": "dense"}, {"where": {"year": 2024}}, {"min_score": 0.0}, {"diversity": 0.5}]
)
def test_a_cursor_is_for_its_own_question(bank: Bank, other: dict[str, Any]) -> None:
    notes = bank.collection("notes")
    asked: dict[str, Any] = {"query": "rivers", "k": 1}
    after = notes.search_page(**asked).after
    with pytest.raises(InvalidInput, match="another question"):
        notes.search_page(**{**asked, **other}, after=after)


def test_pages_end_at_a_depth(bank: Bank) -> None:
    notes = bank.collection("notes")
    with pytest.raises(InvalidInput, match="deep"):
        notes.search_page("rivers", k=MAX_DEPTH + 1)
    with pytest.raises(InvalidInput, match="per_document"):
        notes.search_page("rivers", k=1, per_document=2)

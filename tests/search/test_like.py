"""More like this: by stored vectors and telling words, nothing embedded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.search.test_many import Counting

import embank
from embank.bank import Bank
from embank.errors import DocumentNotFound, InvalidInput

TEXTS = {
    "silt": "Rivers carry silt and sand to the sea.",
    "delta": "Where rivers drop their silt and sand, a delta grows into the sea.",
    "bread": "Bread rises because yeast makes gas.",
    "cake": "A cake rises without yeast, for baking powder makes gas.",
}


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_what_is_most_like_a_document_without_it_and_without_a_model(tmp_path: Path, mode: Any) -> None:
    model = Counting()
    with embank.open(tmp_path / "bank", model=model) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": name, "text": text, "metadata": {"long": len(text)}} for name, text in TEXTS.items()])
        assert notes.like("silt", k=1, mode=mode)[0].id == "delta"
        assert notes.like("cake", k=1, mode=mode)[0].id == "bread"
        assert "silt" not in [hit.id for hit in notes.like("silt", k=10, mode=mode)]
        assert [hit.id for hit in notes.like("silt", mode=mode, where={"long": len(TEXTS["cake"])})] in (["cake"], [])
    assert model.batches == []


def test_vectors_of_ones_own_will_do(tmp_path: Path) -> None:
    rows = [[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]]
    with embank.open(tmp_path / "bank") as bank:
        notes = bank.collection("notes")
        notes.add([{"id": name, "text": name} for name in "abc"], vectors=rows)
        assert [hit.id for hit in notes.like("a", mode="dense")] == ["b", "c"]
        assert notes.like("a")[0].id == "b"


def test_rare_words_tell_more_than_common_ones(bank: Bank) -> None:
    notes = bank.collection("notes")
    notes.add([{"id": f"common{n}", "text": "the water of the lake"} for n in range(20)])
    notes.add([{"id": "one", "text": "the zebra by the water"}, {"id": "two", "text": "a herd of zebras"}])
    assert notes.like("one", k=1, mode="lexical")[0].id == "two"


def test_a_document_that_is_not_there_is_told(bank: Bank) -> None:
    notes = bank.collection("notes")
    with pytest.raises(DocumentNotFound, match="nobody"):
        notes.like("nobody")
    for bad in ("", None, 3):
        wrong: Any = bad
        with pytest.raises(InvalidInput):
            notes.like(wrong)
    with pytest.raises(InvalidInput, match="not both"):
        notes.search_page("rivers", like="a1")


def test_it_is_kept_until_something_changes(bank: Bank) -> None:
    notes = bank.collection("notes")
    first = notes.like("a1")
    assert notes.like("a1") == first
    notes.add([{"id": "a4", "text": "Rivers carry silt to the sea, too."}])
    assert notes.like("a1")[0].id == "a4"

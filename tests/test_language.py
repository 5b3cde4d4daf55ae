"""The language of a collection, from the library: chosen, changed, and kept through compaction and backup."""

from __future__ import annotations

from pathlib import Path

import pytest

import embank
from embank.errors import InvalidInput
from embank.testing.fakes import HashModel


def test_a_language_is_chosen_changed_and_kept(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        notes = bank.collection("notes", language="german")
        notes.add([{"id": "a", "text": "Die Häuser am Fluss."}, {"id": "b", "text": "Houses by the river."}])
        assert [hit.id for hit in notes.search("häusern", mode="lexical")] == ["a"]
        assert [hit.id for hit in notes.search("housing", mode="lexical")] == []
        bank.collection("notes", language="english")
        assert [hit.id for hit in notes.search("housing", mode="lexical")] == ["b"]  # no answer that was kept before
        bank.collection("notes", language="german")
        notes.delete(["b"])
        notes.compact()
        assert [hit.id for hit in notes.search("häusern", mode="lexical")] == ["a"]
        bank.backup(tmp_path / "copy")
    with embank.open(tmp_path / "copy", read_only=True) as bank:
        assert [hit.id for hit in bank.collection("notes").search("häusern", mode="lexical")] == ["a"]


def test_an_unknown_language_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with embank.open(tmp_path / "bank", model=HashModel()) as bank:
        with pytest.raises(InvalidInput, match="'klingon' is no language of the lexical index: choose one of none, "):
            bank.collection("notes", language="klingon")
        assert bank.collections() == []

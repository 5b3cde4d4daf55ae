"""Dropping a collection of an open bank: what is held in memory of it goes, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import embank
from embank.bank import Bank
from embank.testing.fakes import HashModel

NOTES = [
    {"id": "a1", "text": "Rivers carry silt to the sea."},
    {"id": "a2", "text": "Mountains rise where plates meet."},
    {"id": "a3", "text": "Flüsse tragen Schlamm ins Meer."},
]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with embank.open(tmp_path / "bank", model=HashModel()) as opened:
        yield opened


def test_a_dropped_collection_leaves_nothing_in_memory(bank: Bank) -> None:
    before = {name for name, _ in bank.memory().consumers}
    notes = bank.collection("notes")
    notes.add(NOTES)
    notes.hot.touch(["a1"])
    assert [hit.id for hit in notes.search("what do rivers carry?", k=1)] == ["a1"]
    results = bank.cache().results
    assert results is not None
    assert results.entries
    assert bank.drop("notes").documents == 3
    assert {name for name, _ in bank.memory().consumers} == before
    results = bank.cache().results
    assert results is not None
    assert not results.entries  # answers hold what passages say
    again = bank.collection("notes")
    again.add([{"id": "b1", "text": "Glaciers grind stone."}])
    assert [hit.id for hit in again.search("what do rivers carry?", k=1)] == ["b1"]

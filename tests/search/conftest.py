"""A bank with three notes and a model that costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.search.notes import NOTES

import embank
from embank.bank import Bank
from embank.testing.fakes import HashModel


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with embank.open(tmp_path / "bank", model=HashModel()) as opened:
        opened.collection("notes").add(NOTES)
        yield opened

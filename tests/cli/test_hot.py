"""`embank hot show` and `rebuild`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run

import embank
from embank.cli import errors


@pytest.fixture
def read(run: Run, notes: Path, workplace: Path) -> Path:
    """A bank of three documents, one of which was read twice and one once, by the process that writes it."""
    assert run("index", notes, "-c", "notes").exit_code == 0
    with embank.open(workplace / "embank.bank", model="wordllama") as bank:
        collection = bank.collection("notes")
        for _ in range(2):
            collection.search("silt", k=1, mode="lexical")
        collection.get("backup.md")
    return notes


@pytest.mark.usefixtures("read")
def test_what_is_read_most_is_shown_copied_and_shown(run: Run) -> None:
    shown = run("hot", "show", "-c", "notes")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.index("rivers.md") < shown.stdout.index("backup.md")
    assert "3 accesses of 2 documents" in shown.stdout
    assert "there is no tier" in shown.stdout
    would = run("hot", "rebuild", "-c", "notes", "--dry-run")
    assert "would copy 2 passages of 2 documents" in would.stdout
    made = run("hot", "rebuild", "-c", "notes", "--json")
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert (report["outcome"], report["documents"], report["fraction"]) == ("rebuilt", 2, 1.0)
    assert report["coolest"] == {"name": "backup.md", "count": 1, "error": 0}
    document = json.loads(run("hot", "show", "-c", "notes", "--json", "--top", 1).stdout)
    assert document["top"] == [{"id": "rivers.md", "accesses": 2, "error": 0}]
    assert (document["hot"]["rows"], document["hot"]["behind"], document["hot"]["answers"]) == (2, 0, "never")
    assert "2 passages of 2 documents" in run("hot", "show", "-c", "notes").stdout


def test_where_nothing_was_read_it_says_so(run: Run, notes: Path) -> None:
    assert run("index", notes, "-c", "notes").exit_code == 0
    assert "nothing to do" in run("hot", "rebuild", "-c", "notes").stdout
    assert run("hot", "show", "-c", "nots").exit_code == errors.NOT_FOUND

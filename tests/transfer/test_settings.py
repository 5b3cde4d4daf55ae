"""What a collection is beside its documents goes along into a file, and into the collection that is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embank.bank import Bank, LocalCollection, open_bank
from embank.errors import SourceError
from embank.testing.fakes import HashModel
from embank.transfer.form import MARK, read_head

NOTES = [{"id": "a", "text": "Die Häuser am Fluss."}, {"id": "b", "text": "Brot und Hefe."}]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with open_bank(tmp_path / "bank", model=HashModel(), memory="1GB") as opened:
        yield opened


def found(collection: LocalCollection) -> list[str]:
    """By the stem of a German word alone."""
    return [hit.id for hit in collection.search("Hauses", mode="lexical")]


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_metric_and_language_go_along(bank: Bank, tmp_path: Path, ending: str, *, vectors: bool) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    file = tmp_path / f"a.{ending}"
    here = bank.collection("here", metric="l2", language="german")
    here.add(NOTES)
    assert found(here) == ["a"]
    here.export(file, vectors=vectors)
    there = bank.collection("there")
    there.import_file(file, dry_run=True)
    assert there.stats() is None
    there.import_file(file)
    assert found(there) == ["a"]
    info = there.stats()
    assert info is not None
    assert (info.metric, info.documents) == ("l2", 2)


def test_one_that_is_there_stays_as_it_is(bank: Bank, tmp_path: Path) -> None:
    here = bank.collection("here", language="german")
    here.add(NOTES)
    here.export(tmp_path / "a.jsonl")
    own = bank.collection("own", language="none")
    own.import_file(tmp_path / "a.jsonl")
    assert found(own) == []
    chosen = bank.collection("chosen", metric="dot")  # by whoever imports, where it is not there yet
    chosen.import_file(tmp_path / "a.jsonl")
    assert chosen.stats() is not None
    assert chosen.stats().metric == "dot"  # type: ignore[union-attr]  # it was told not to be None
    assert found(chosen) == ["a"]


def test_files_of_before_have_no_language(bank: Bank, tmp_path: Path) -> None:
    bank.collection("here").add(NOTES)
    bank.collection("here").export(tmp_path / "a.jsonl")
    head, *rest = (tmp_path / "a.jsonl").read_text().splitlines()
    told: dict[str, Any] = json.loads(head)
    assert told.pop("language") == "english"
    (tmp_path / "b.jsonl").write_text("\n".join([json.dumps(told), *rest]) + "\n")
    assert bank.collection("there").import_file(tmp_path / "b.jsonl").added == 2
    assert read_head(told, name="b").language is None
    with pytest.raises(SourceError, match="'klingon', which this Embank does not know"):
        read_head({MARK: 1, **told, "language": "klingon"}, name="b")

"""Exports as Parquet: readable by others, in small row groups, and not without its library."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from embank.bank import open_bank
from embank.errors import MissingExtra, SourceError
from embank.testing.fakes import HashModel

MODEL = HashModel()


def test_others_can_read_it(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with open_bank(tmp_path / "bank", memory="1GB", model=MODEL) as bank:
        notes = bank.collection("notes")
        notes.add([{"id": "a", "text": "Rivers carry silt.", "metadata": {"year": 2024}}])
        notes.export(tmp_path / "a.parquet", vectors=True)
    table = parquet.read_table(tmp_path / "a.parquet")
    (row,) = table.to_pylist()
    assert (row["id"], row["text"], json.loads(row["metadata"])) == ("a", "Rivers carry silt.", {"year": 2024})
    assert row["passages"] == [{"start": 0, "end": 18}]
    vector = np.frombuffer(row["vectors"][0], "<f2").astype(np.float32)
    np.testing.assert_array_equal(vector, MODEL.embed([row["text"]])[0].astype(np.float16).astype(np.float32))
    head = json.loads(table.schema.metadata[b"embank"])
    assert (head["collection"], head["fingerprint"], head["dtype"]) == ("notes", MODEL.fingerprint, "fp16")


def test_row_groups_are_small_and_all_of_them_come_back(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = {f"d{n:02}": f"text {n} " + "filling " * 120_000 for n in range(12)}
    with open_bank(tmp_path / "bank", memory="1GB", model=MODEL) as bank:
        notes = bank.collection("notes")
        vectors = np.eye(12, 64, dtype=np.float32)
        notes.add([{"id": name, "text": text} for name, text in texts.items()], vectors=vectors)
        notes.export(tmp_path / "a.parquet", vectors=True)
        file = parquet.ParquetFile(tmp_path / "a.parquet")
        sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
        assert len(sizes) > 1
        assert max(sizes) < 10_000_000
        copy = bank.collection("copy")
        assert copy.import_file(tmp_path / "a.parquet").vectors == 12
        assert {each.id: each.text for each in copy.list()} == texts


def test_other_columns_are_refused(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with open_bank(tmp_path / "bank", memory="1GB", model=MODEL) as bank:
        notes = bank.collection("notes")
        notes.add(["Rivers carry silt."])
        notes.export(tmp_path / "a.parquet")
        table = parquet.read_table(tmp_path / "a.parquet")
        parquet.write_table(table.append_column("more", arrow.array([1])), tmp_path / "b.parquet")
        with pytest.raises(SourceError, match="other columns"):
            bank.collection("there").import_file(tmp_path / "b.parquet")
        parquet.write_table(table.replace_schema_metadata(None), tmp_path / "c.parquet")
        with pytest.raises(SourceError, match="no export"):
            bank.collection("there").import_file(tmp_path / "c.parquet")


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with open_bank(tmp_path / "bank", memory="1GB", model=MODEL) as bank:
        notes = bank.collection("notes")
        notes.add(["Rivers carry silt."])
        with pytest.raises(MissingExtra, match=r"embank\[parquet\]"):
            notes.export(tmp_path / "b.parquet")
        with pytest.raises(MissingExtra, match=r"embank\[parquet\]"):
            notes.import_file(tmp_path / "a.parquet")
    assert not (tmp_path / "b.parquet").exists()

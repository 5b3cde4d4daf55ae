"""The short way of `embank stats`: the same answer as the command's, before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embank.bank import open_bank
from embank.cli import glance
from embank.store.codec import Codec
from embank.store.info import CollectionInfo

_HEAVY = """
import sys
from embank.cli.app import main
try:
    main()
finally:
    heavy = {"numpy", "typer", "rich", "pydantic", "tantivy"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    with open_bank(tmp_path / "a.bank", memory="1GB") as opened:
        notes = opened.collection("nötes/数".replace("/", "-"))
        notes.add([{"id": "a", "text": "Rivers carry silt."}], vectors=np.ones((1, 8), np.float32))
        assert opened.stats().documents == 1
        assert opened.stats().as_dict()["chunks"] == 1
    return tmp_path / "a.bank"


def test_nothing_heavy_is_imported_and_no_data_is_opened(bank: Path) -> None:
    for segment in (bank / "vectors").rglob("*.vec"):
        segment.write_bytes(b"not even looked at")
    command = [sys.executable, "-c", _HEAVY, "stats", "--bank", str(bank), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    (info,) = json.loads(done.stdout)["collections"]
    assert (info["name"], info["documents"], info["vector_bytes"], info["reembedding"]) == ("nötes-数", 1, 16, None)


def test_the_table_is_drawn(bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBANK_BANK", str(bank))
    assert glance.answered([])
    head, rule, row = capsys.readouterr().out.splitlines()[1:4]
    assert head.split() == ["collection", "documents", "passages", "text", "vectors", "model", "changed"]
    assert row.startswith("nötes-数            1         1  18 B     16 B  user:own as fp16, by cosine  ")
    assert set(rule) == {"─"}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--set", "a=b"],
        ["-c"],
        ["-c", "nothing there"],
        ["--bank", "missing"],
        ["--bank="],
        ["-b=a.bank"],
        ["more"],
        ["-c", "--json"],
    ],
)
def test_what_is_not_plain_is_left_to_the_command(
    bank: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBANK_BANK", str(bank))
    assert not glance.answered(words)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
@pytest.mark.parametrize("dimension", [None, 1, 384])
def test_bytes_of_vectors_are_those_of_the_codec(dtype: str, dimension: int | None) -> None:
    info = CollectionInfo("a", 1, 7, 1, 9, "cosine", "local", False, dtype, 0, 1, 0.0, 0.0, dimension=dimension)
    expected = 0 if dimension is None else 9 * Codec(dtype, dimension).record.itemsize
    assert info.vector_bytes == expected

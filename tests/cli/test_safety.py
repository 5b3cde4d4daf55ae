"""`embank verify`, `backup` and `restore`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from embank.bank import open_bank
from embank.store.vectors import DATA_OFFSET

Run = Callable[..., Result]


def said(result: Result, code: int = 0) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_whole_bank(run: Run, filled: Path) -> None:
    assert filled.exists()
    result = run("verify")
    assert result.exit_code == 0, result.output
    assert "3 documents in 1 collection, 3 vectors" in result.stdout
    assert result.stdout.endswith(": whole\n")
    report = said(run("verify", "--full", "--json"))
    assert (report["damaged"], report["findings"], report["documents"], report["full"]) == (False, [], 3, True)


def test_a_damaged_bank_ends_in_6_and_names_the_document(run: Run, filled: Path) -> None:
    path = next((filled / "vectors").rglob("*.vec"))
    data = bytearray(path.read_bytes())
    data[DATA_OFFSET + 1] ^= 0x40
    path.write_bytes(data)
    result = run("verify")
    assert result.exit_code == 6
    assert "vectors/1-0/000000.vec" in result.stdout
    assert "restore a backup" in result.stdout
    (finding,) = said(run("verify", "--json"), 6)["findings"]
    assert (finding["severity"], finding["affected"], len(finding["ids"])) == ("damaged", 1, 1)
    assert finding["ids"][0] in result.stdout
    assert said(run("backup", "copy", "--json"), 6)["error"]["kind"] == "BankDamaged"


def test_a_damaged_view_ends_in_0(run: Run, filled: Path) -> None:
    path = next((filled / "views").rglob("meta.json"))
    path.write_bytes(b"{}")
    result = run("verify")
    assert result.exit_code == 0
    assert "views/1-0/lexical" in result.stdout
    assert "nothing is lost" in result.stdout


def test_there_and_back(run: Run, filled: Path) -> None:
    before = said(run("search", "what carries silt", "--json"))["hits"]
    with open_bank(filled) as bank:  # in use while it is copied
        bank.collection("default").delete("deep/bread.txt")
        result = run("backup", "copy.bank")
        assert result.exit_code == 0, result.output
        assert "backed up embank.bank to copy.bank: 2 documents in 1 collection" in result.stdout
        assert bank.verify(full=True).findings == ()
        assert bank.backup("second.bank").documents == 2
    assert run("backup", "copy.bank").exit_code == 2
    assert run("restore", "copy.bank", "embank.bank").exit_code == 2
    assert said(run("restore", "copy.bank", "again.bank", "--json"))["documents"] == 2
    assert said(run("verify", "-b", "again.bank", "--full", "--json"))["findings"] == []
    after = said(run("search", "what carries silt", "-b", "again.bank", "--json"))["hits"]
    assert [hit["id"] for hit in after] == [hit["id"] for hit in before if hit["id"] != "deep/bread.txt"]


def test_what_is_not_there(run: Run, workplace: Path) -> None:
    assert workplace.exists()
    assert run("verify").exit_code == 3
    assert run("backup", "copy").exit_code == 3
    assert run("restore", "nowhere", "copy").exit_code == 3
    assert not (workplace / "copy").exists()


def test_migrate(run: Run, filled: Path) -> None:
    planned = said(run("migrate", "--dry-run", "--json"))
    assert (planned["before"], planned["after"], planned["dry_run"]) == (1, 2, True)
    assert "was brought from format 1 to 2" in run("migrate").stdout
    assert (filled / "FORMAT").read_text() == "embank 2\n"
    assert "the newest: nothing to do" in run("migrate").stdout
    assert run("migrate", "--bank", "missing").exit_code == 3

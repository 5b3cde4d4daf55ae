from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from embank import errors
from embank.cli.errors import MEANINGS, exit_code

Run = Callable[..., Result]

DOCUMENTED = {
    errors.EmbankError: 1,
    errors.StoreError: 1,
    errors.IndexUnavailable: 1,
    errors.InvalidInput: 2,
    errors.ConfigError: 2,
    errors.SourceError: 2,
    errors.MissingExtra: 2,
    errors.FingerprintMismatch: 2,
    errors.MetricMismatch: 2,
    errors.ModelNotFound: 3,
    errors.BankNotFound: 3,
    errors.CollectionNotFound: 3,
    errors.DocumentNotFound: 3,
    errors.BankLocked: 4,
    errors.BankReadOnly: 4,
    errors.BankServed: 4,
    errors.ServiceError: 4,
    errors.ServiceUnreachable: 4,
    errors.ModelInUse: 4,
    errors.ProtectedCollectionError: 4,
    errors.MemoryBudgetError: 5,
    errors.BudgetExceeded: 5,
    errors.BudgetBelowFloor: 5,
    errors.StorageFull: 6,
    errors.StorageFailed: 6,
    errors.BankDamaged: 6,
    errors.FormatTooNew: 6,
    errors.ModelError: 7,
    errors.ModelFileError: 7,
    errors.HubError: 7,
    errors.OfflineMode: 7,
    errors.DeviceNotFound: 7,
    errors.EmbeddingFailed: 7,
    errors.RemoteFailed: 7,
}


def tree(root: type[errors.EmbankError]) -> set[type[errors.EmbankError]]:
    return {root}.union(*(tree(child) for child in root.__subclasses__() if child.__module__ == "embank.errors"))


def made(kind: type[errors.EmbankError]) -> errors.EmbankError:
    if kind is errors.BudgetExceeded:
        return errors.BudgetExceeded("a batch", wanted_bytes=2, available_bytes=1, budget_bytes=1)
    return errors.MissingExtra("faiss", "faiss") if kind is errors.MissingExtra else kind("what happened")


def test_every_error_has_its_documented_code() -> None:
    assert set(DOCUMENTED) == tree(errors.EmbankError)
    for kind, code in DOCUMENTED.items():
        assert exit_code(made(kind)) == code, kind
    assert (exit_code(KeyboardInterrupt()), exit_code(BrokenPipeError()), exit_code(KeyError())) == (130, 141, 1)


def test_the_codes_stand_in_help_and_in_the_reference(run: Run) -> None:
    told = " ".join(run("--help").stdout.split())
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in MEANINGS.items():
        assert f"{code} {meaning}" in told
        assert f"| {code} | {meaning} |" in page


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["search", ""], 2, "InvalidInput"),
        (["search", "silt", "-k", "0"], 2, "InvalidInput"),
        (["search", "silt", "--mode", "psychic"], 2, "InvalidInput"),
        (["search", "silt", "--where", '{"year": {"$near": 1}}'], 2, "InvalidInput"),
        (["search", "silt", "--where", "{"], 2, "InvalidInput"),
        (["search", "silt", "-c", "nowhere"], 3, "CollectionNotFound"),
        (["search", "silt", "-b", "no.bank"], 3, "BankNotFound"),
        (["search", "silt", "-k", "many"], 2, "UsageError"),
        (["search", "silt", "--memory", "1MB"], 5, "BudgetBelowFloor"),
        (["list", "--limit", "0"], 2, "InvalidInput"),
        (["get", "nothing"], 3, "DocumentNotFound"),
        (["delete", "nothing", "--yes"], 3, "DocumentNotFound"),
        (["delete"], 2, "InvalidInput"),
        (["delete", "a", "-b", "no.bank", "--yes"], 3, "BankNotFound"),
        (["index", "nowhere"], 2, "SourceError"),
        (["index", "embank.bank"], 2, "SourceError"),
        (["add", "--text", "x", "-c", "other", "--model", "wordlama"], 3, "ModelNotFound"),
        (["add", "--text", "x", "-c", "../other"], 2, "InvalidInput"),
        (["count", "--set", "a.b=c"], 2, "ConfigError"),
        (["count", "--config", "nowhere.toml"], 2, "ConfigError"),
        (["stats", "-c", "nowhere"], 3, "CollectionNotFound"),
        (["demo", "--keep", "notes"], 2, "InvalidInput"),
        (["teleport"], 2, "UsageError"),
    ],
)
def test_each_error_is_told_once_and_ends_in_its_code(run: Run, words: list[str], code: int, kind: str) -> None:
    people = run(*words)
    assert people.exit_code == code, people.output
    assert people.stdout == ""
    assert people.stderr.strip()
    assert "Traceback" not in people.stderr
    program = run(*words, "--json")
    assert program.exit_code == code
    error = json.loads(program.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert error["message"]


def test_a_protected_collection_refuses(run: Run, filled: Path) -> None:
    from embank.bank import open_bank

    with open_bank(filled) as bank:
        bank.collection().protect()
    result = run("delete", "rivers.md", "--yes")
    assert result.exit_code == 4
    assert "protected" in result.stderr
    assert "(protected)" in run("stats").stdout


def test_a_damaged_bank_is_told(run: Run, filled: Path) -> None:
    (filled / "bank.db").write_bytes(b"not a database" * 1000)
    for left in ("bank.db-wal", "bank.db-shm"):
        (filled / left).unlink(missing_ok=True)
    assert run("count").exit_code == 6


def test_a_bank_of_a_newer_format_is_told(run: Run, filled: Path) -> None:
    (filled / "FORMAT").write_text("embank 99\n", encoding="utf-8")
    result = run("count")
    assert result.exit_code == 6
    assert "upgrade Embank" in result.stderr


def test_a_bank_that_another_process_writes_can_still_be_read(run: Run, filled: Path) -> None:
    script = f"import embank\nwith embank.open({str(filled)!r}):\n    print('open', flush=True)\n    input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as writer:  # type: ignore[call-overload]
        assert writer.stdout.readline() == "open\n"
        result = run("add", "--text", "Too late.", "--json")
        readable = [run("count"), run("search", "silt"), run("get", "rivers.md"), run("list"), run("stats")]
        writer.stdin.write("\n")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["kind"], error["pid"]) == (4, "BankLocked", writer.pid)
    assert [each.exit_code for each in readable] == [0] * 5


def test_what_nobody_foresaw_comes_with_its_traceback(run: Run, filled: Path) -> None:
    with sqlite3.connect(filled / "bank.db") as connection:
        connection.execute("UPDATE documents SET metadata = 'not JSON'")
    connection.close()
    result = run("list", "--json")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert json.loads(result.stdout)["error"]["kind"] == "JSONDecodeError"

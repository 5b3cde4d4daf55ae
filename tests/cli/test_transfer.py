"""`embank export` and `embank import`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

Run = Callable[..., Result]


def said(result: Result, code: int = 0) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_there_and_back(run: Run, filled: Path) -> None:
    assert filled.exists()
    told = run("export", "notes.jsonl.gz", "--vectors")
    assert told.exit_code == 0, told.output
    assert "wrote 3 documents of default with 3 vectors as fp16 to notes.jsonl.gz" in told.stdout
    planned = said(run("import", "notes.jsonl.gz", "--bank", "copy.bank", "--dry-run", "--json"))
    assert (planned["dry_run"], planned["added"]) == (True, 3)
    assert said(run("count", "--bank", "copy.bank", "--json"), 3)["error"]["kind"] == "CollectionNotFound"
    told = run("import", "notes.jsonl.gz", "--bank", "copy.bank", "--model", "never loaded")
    assert told.exit_code == 0, told.output
    assert "3 documents imported: 3 added; 3 vectors taken over" in told.stdout
    assert run("search", "what carries silt", "--bank", "copy.bank", "-k", 1).stdout.count("rivers.md") == 1
    assert said(run("import", "notes.jsonl.gz", "--bank", "copy.bank", "--json"))["unchanged"] == 3


def test_a_file_that_is_taken_or_no_export(run: Run, filled: Path) -> None:
    assert filled.exists()
    Path("a.jsonl").write_text('{"text": "mine"}\n')
    assert said(run("export", "a.jsonl", "--json"), 2)["error"]["kind"] == "InvalidInput"
    assert said(run("import", "a.jsonl", "--bank", "other.bank", "--json"), 2)["error"]["kind"] == "SourceError"
    assert not Path("other.bank").exists()
    assert said(run("export", "a.jsonl", "--force", "--json"))["documents"] == 3
    assert said(run("export", "-", "--json"), 2)["error"]["kind"] == "InvalidInput"
    assert said(run("export", "b.jsonl", "-c", "notes", "--json"), 3)["error"]["kind"] == "CollectionNotFound"


def test_through_a_pipe(run: Run, filled: Path) -> None:
    assert filled.exists()
    embank = [sys.executable, "-m", "embank"]
    exported = subprocess.run([*embank, "export", "-", "--vectors"], capture_output=True, check=True, timeout=120)
    head, *rows, end = [json.loads(line) for line in exported.stdout.splitlines()]
    assert (head["embank_export"], len(rows), end["embank_end"]["documents"]) == (1, 3, 3)
    copied = [*embank, "import", "-", "-c", "copy", "--json"]
    done = subprocess.run(copied, input=exported.stdout, capture_output=True, check=True, timeout=120)
    assert json.loads(done.stdout)["added"] == 3
    cut = exported.stdout[: exported.stdout.rindex(b'{"embank_end')]
    refused = subprocess.run(
        [*copied[:-2], "third", "--json"], input=cut, capture_output=True, check=False, timeout=120
    )
    assert refused.returncode == 2
    assert "cut short" in json.loads(refused.stdout)["error"]["message"]

"""`embank drop`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from embank.store import dropping

Run = Callable[..., Result]


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_it_tells_asks_and_does(run: Run, filled: Path) -> None:
    planned = said(run("drop", "default", "--dry-run", "--json"))
    assert (planned["collection"], planned["documents"], planned["dry_run"]) == ("default", 3, True)
    assert "would drop default: 3 documents and 3 passages, " in run("drop", "default", "--dry-run").stdout
    refused = run("drop", "default")
    assert refused.exit_code == 2
    assert "this deletes the collection default with 3 documents and 3 passages: say --yes" in refused.stderr
    assert said(run("count", "--json"))["count"] == 3
    result = run("drop", "default", "--yes")
    assert result.exit_code == 0, result.output
    assert "dropped default: 3 documents and 3 passages, " in result.stdout
    assert said(run("stats", "--json"))["collections"] == []
    assert list((filled / "vectors").iterdir()) == list((filled / "views").iterdir()) == []
    assert run("drop", "default", "--yes").exit_code == 3


def test_a_protected_one_is_refused(run: Run, filled: Path) -> None:
    from embank.bank import open_bank

    with open_bank(filled) as bank:
        bank.collection("default").protect()
    assert run("drop", "default", "--yes").exit_code == 4
    assert run("drop", "default", "--dry-run").exit_code == 4
    assert said(run("count", "--json"))["count"] == 3


def test_interrupted_it_says_what_became_of_it(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(dropping, "_erase_step", stop)
        result = run("drop", "default", "--yes", "--json")
    assert result.exit_code == 130
    assert "default is gone" in json.loads(result.stdout)["error"]["message"]
    assert list((filled / "vectors").iterdir())
    assert run("add", "--text", "glaciers", "--id", "g").exit_code == 0
    assert [path.name for path in (filled / "vectors").iterdir()] == ["2-0"]

"""`embank compact` and `embank purge`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from embank.store.clone import Clone

Run = Callable[..., Result]


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def fragmented(run: Run, filled: Path) -> Path:
    """Three documents, of which one is deleted."""
    assert run("delete", "rivers.md", "--yes").exit_code == 0
    return filled


def test_compact_tells_and_does(run: Run, fragmented: Path) -> None:
    assert fragmented.exists()
    told = run("compact", "--dry-run").stdout
    assert "default: 1 of 3 vectors are dead; a compaction would leave about" in told
    (planned,) = said(run("compact", "--dry-run", "--json"))["collections"]
    assert (planned["outcome"], planned["slots_before"], planned["dead"]) == ("would compact", 3, 1)
    assert run("compact", "--due").stdout == "nothing is due\n"
    before = said(run("search", "why does dough grow", "--json"))["hits"]
    result = run("compact", "-c", "default")
    assert result.exit_code == 0, result.output
    assert "default: 1 of 3 vectors were dead and are gone: " in result.stdout
    after = said(run("search", "why does dough grow", "--json"))["hits"]
    assert [hit["id"] for hit in after] == [hit["id"] for hit in before]
    assert said(run("stats", "--json"))["collections"][0]["slots"] == 2
    assert "nothing to do, none of its 2 vectors is dead" in run("compact").stdout


def test_compact_json_and_due(run: Run, fragmented: Path) -> None:
    assert fragmented.exists()
    words = ("compact", "--due", "--json", "--set", "store.compact_dead=0.3", "--set", "store.compact_least=1")
    (report,) = said(run(*words))["collections"]
    assert (report["outcome"], report["slots_after"], report["due"]) == ("compacted", 2, True)
    assert said(run(*words))["collections"] == []


def test_compact_interrupted(run: Run, fragmented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Clone) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Clone, "verify", stop)
        result = run("compact", "--json")
    assert result.exit_code == 130
    assert "default answers as before; the same command begins again" in json.loads(result.stdout)["error"]["message"]
    assert [path.name for path in (fragmented / "vectors").iterdir()] == ["1-0"]
    assert said(run("compact", "--json"))["collections"][0]["outcome"] == "compacted"


def test_compact_of_what_is_not_there(run: Run, filled: Path) -> None:
    assert filled.exists()
    assert run("compact", "-c", "nowhere").exit_code == 3
    assert run("compact", "-b", "nowhere").exit_code == 3


def test_purge_asks_tells_and_does(run: Run, filled: Path) -> None:
    assert filled.exists()
    told = run("purge", "--keep", 1, "--dry-run")
    assert "would delete 2 documents of default (all but the newest 1): " in told.stdout
    assert said(run("count", "--json"))["count"] == 3
    refused = run("purge", "--keep", 1)
    assert refused.exit_code == 2
    assert "say --yes" in refused.stderr
    report = said(run("purge", "--keep", 1, "--dry-run", "--json"))
    assert (report["documents"], report["dry_run"], report["remaining"]) == (2, True, 1)
    result = run("purge", "--keep", 1, "--yes")
    assert "deleted 2 documents of default (all but the newest 1); 1 are left" in result.stdout
    left = said(run("list", "--json"))["documents"]
    assert len(left) == 1
    assert left[0]["id"] not in report["ids"]
    assert said(run("purge", "--older-than", "1d", "--json", "--yes"))["documents"] == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["--older-than", "soon"], 2),
        (["--keep", "1", "--older-than", "1d"], 2),
        (["--where", "{"], 2),
        (["--keep", "1", "-c", "nowhere"], 3),
    ],
)
def test_purge_refusals(run: Run, filled: Path, words: list[str], code: int) -> None:
    assert filled.exists()
    assert run("purge", *words, "--yes").exit_code == code


def test_a_protected_collection_is_compacted_and_not_purged(run: Run, fragmented: Path) -> None:
    from embank.bank import open_bank

    with open_bank(fragmented) as bank:
        bank.collection("default").protect()
    assert run("purge", "--keep", "0", "--yes").exit_code == 4
    assert run("purge", "--keep", "0", "--dry-run").exit_code == 4
    assert said(run("compact", "--json"))["collections"][0]["outcome"] == "compacted"

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Run = Callable[..., Result]


@pytest.mark.usefixtures("filled")
def test_search_finds_the_answer(run: Run) -> None:
    said = json.loads(run("search", "how do I restore a backup", "-k", 2, "--json").stdout)
    assert len(said["hits"]) == 2
    hit = said["hits"][0]
    assert hit["id"] == "backup.md"
    assert hit["text"][hit["start"] : hit["end"]] == hit["text"]
    assert set(hit["scores"]) == {"dense", "lexical"}
    assert hit["metadata"]["title"] == "Backups"


@pytest.mark.usefixtures("filled")
def test_search_for_people(run: Run) -> None:
    result = run("search", "yeast and bread", "--explain")
    assert result.exit_code == 0
    assert result.stdout.index("bread.txt") < result.stdout.index("rivers.md")
    assert "passage 0, 0–" in result.stdout
    assert "dense" in result.stdout


@pytest.mark.usefixtures("filled")
def test_search_explained(run: Run) -> None:
    result = run("search", "rising breads", "--where", '{"path": "deep/bread.txt"}', "--explain", "--neighbors", 1)
    assert "vectors: exact, 3 vectors" in result.stdout
    assert "filter: leaves 33.33% of the passages" in result.stdout
    assert "vectors scored all that it leaves" in " ".join(result.stdout.split())
    assert "milliseconds: embed" in result.stdout
    hit = json.loads(run("search", "rising breads", "--explain", "--json").stdout)["hits"][0]
    assert [hit["text"][start:end] for start, end in hit["highlights"]] == ["Bread", "rises"]
    assert hit["explained"]["lexical"]["rank"] == 1
    assert hit["explained"]["search"]["index"]["index"] == "exact"


@pytest.mark.usefixtures("filled")
def test_search_by_pages_and_by_likeness(run: Run) -> None:
    first = json.loads(run("search", "silt", "-k", 2, "--json").stdout)
    second = json.loads(run("search", "silt", "-k", 2, "--after", first["after"], "--json").stdout)
    assert second["after"] is None
    found = [hit["id"] for said in (first, second) for hit in said["hits"]]
    assert sorted(found) == ["backup.md", "deep/bread.txt", "rivers.md"]
    wrong = run("search", "sand", "-k", 2, "--after", first["after"])
    assert (wrong.exit_code, "another question" in wrong.stderr) == (2, True)
    like = json.loads(run("like", "rivers.md", "--json").stdout)
    assert sorted(hit["id"] for hit in like["hits"]) == ["backup.md", "deep/bread.txt"]
    assert json.loads(run("search", "--like", "rivers.md", "--json").stdout)["hits"] == like["hits"]
    assert run("like", "nobody.md").exit_code != 0
    assert run("search").exit_code == 2
    assert run("search", "silt", "--like", "rivers.md").exit_code == 2


@pytest.mark.usefixtures("filled")
def test_search_for_fewer_and_for_more_of_each(run: Run) -> None:
    assert json.loads(run("search", "silt", "--min-score", 2, "--json").stdout)["hits"] == []
    said = json.loads(run("search", "silt", "--per-document", 3, "--diversity", 0.5, "--json").stdout)
    assert len(said["hits"]) == 3
    assert run("search", "silt", "--diversity", 7).exit_code == 2


@pytest.mark.usefixtures("filled")
def test_search_with_a_filter_and_a_mode(run: Run) -> None:
    where = json.dumps({"title": "Rivers"})
    said = json.loads(run("search", "restore", "--where", where, "--mode", "dense", "--json").stdout)
    assert [hit["id"] for hit in said["hits"]] == ["rivers.md"]
    empty = run("search", "zymurgy", "--mode", "lexical")
    assert (empty.exit_code, empty.stdout) == (0, "nothing found in default\n")


@pytest.mark.usefixtures("filled")
def test_k_may_exceed_the_collection(run: Run) -> None:
    assert len(json.loads(run("search", "silt", "-k", 1000, "--json").stdout)["hits"]) == 3


@pytest.mark.usefixtures("filled")
def test_get_shows_whole_documents(run: Run) -> None:
    result = run("get", "rivers.md", "deep/bread.txt")
    assert result.stdout.index("silt and sand") < result.stdout.index("yeast makes gas")
    said = json.loads(run("get", "rivers.md", "--json").stdout)
    assert said["documents"][0]["metadata"] == {"path": "rivers.md", "title": "Rivers"}


@pytest.mark.usefixtures("filled")
def test_list_goes_on_where_it_stopped(run: Run) -> None:
    first = json.loads(run("list", "--limit", 2, "--json").stdout)
    assert [each["id"] for each in first["documents"]] == ["backup.md", "deep/bread.txt"]
    second = json.loads(run("list", "--limit", 2, "--after", first["next_after"], "--json").stdout)
    assert [each["id"] for each in second["documents"]] == ["rivers.md"]
    assert second["next_after"] is None
    assert "go on with --after 'deep/bread.txt'" in run("list", "--limit", 2).stdout


@pytest.mark.usefixtures("filled")
def test_count_and_stats(run: Run, filled: Path) -> None:
    assert run("count").stdout == "3\n"
    assert json.loads(run("count", "--json").stdout) == {"collection": "default", "count": 3}
    said = json.loads(run("stats", "--json").stdout)
    (info,) = said["collections"]
    assert (info["documents"], info["chunks"], info["vector_bytes"]) == (3, 3, 3 * 256 * 2)
    assert info["text_bytes"] == sum(
        len(path.read_bytes())
        for path in [*filled.parent.glob("notes/**/*.md"), filled.parent / "notes/deep/bread.txt"]
    )
    disk = said["disk_bytes"]
    assert disk["total"] == sum(held for name, held in disk.items() if name != "total")
    assert disk["bank.db"] > 0
    assert "wordllama" in run("stats").stdout


@pytest.mark.usefixtures("filled")
def test_a_document_cannot_steer_the_terminal(run: Run) -> None:
    run("add", "--id", "evil", "--text", "before \x1b[2J\x1b]0;owned\x07 after")
    for command in (("get", "evil"), ("list",), ("search", "before after")):
        shown = run(*command).stdout
        assert "after" in shown
        assert "\x1b" not in shown
        assert "\x07" not in shown


def test_the_bank_is_the_flag_or_else_the_variable(run: Run, notes: Path) -> None:
    run("index", notes, "-b", "one.bank")
    assert run("count", "--bank", "one.bank").stdout == "3\n"
    assert run("count", env={"EMBANK_BANK": "one.bank"}).stdout == "3\n"
    assert run("count").exit_code == 3


def test_delete_by_id_and_by_filter(run: Run, filled: Path) -> None:
    assert filled.exists()
    dry = run("delete", "rivers.md", "--dry-run")
    assert dry.stdout == "would delete 1 document of default: rivers.md\n"
    assert run("delete", "rivers.md", "--yes").stdout == "deleted 1 document of default\n"
    said = json.loads(run("delete", "--where", '{"title": "Backups"}', "--yes", "--json").stdout)
    assert (said["matched"], said["deleted"], said["ids"]) == (1, 1, ["backup.md"])
    assert run("count").stdout == "1\n"


@pytest.mark.usefixtures("filled")
def test_delete_without_a_terminal_wants_a_yes(run: Run) -> None:
    result = run("delete", "rivers.md")
    assert result.exit_code == 2
    assert "say --yes" in result.stderr
    assert run("count").stdout == "3\n"


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(("answer", "left"), [("n\n", 3), ("y\n", 2)])
def test_delete_on_a_terminal_asks(run: Run, answer: str, left: int) -> None:
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer.encode())
        asked = subprocess.run(
            [sys.executable, "-m", "embank", "delete", "rivers.md"],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Delete 1 document of default: rivers.md?" in asked.stderr
    assert run("count").stdout == f"{left}\n"

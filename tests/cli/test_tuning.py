"""`embank search` with its subcommands: a question, `evaluate` and `tune`; and filters at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run

QUESTIONS = {
    "backup.md": ["how do I restore a backup", "restore", "what is a backup for"],
    "rivers.md": ["silt", "what do rivers carry", "sand"],
    "deep/bread.txt": ["yeast", "why does bread rise", "gas in dough"],
}


@pytest.fixture
def pairs(filled: Path) -> Path:
    file = filled.parent / "pairs.jsonl"
    asked = [
        (f"{question}{end}", name) for name, each in QUESTIONS.items() for question in each for end in ("", "?", "!")
    ]
    file.write_text("".join(json.dumps({"question": question, "id": name}) + "\n" for question, name in asked))
    return file


def test_evaluate_and_tune(run: Run, pairs: Path) -> None:
    said = json.loads(run("search", "evaluate", "--pairs", pairs, "-k", 3, "--json").stdout)
    assert said["questions"] == 27
    assert set(said["ways"]) == {"dense", "lexical", "hybrid"}
    assert said["ways"]["hybrid"]["recall@3"] == {"value": 1, "low": 1, "high": 1}
    shown = run("search", "evaluate", "--pairs", pairs).stdout
    assert "nDCG@10" in shown
    assert "27 questions" in shown
    made = run("search", "tune", "--pairs", pairs, "--set", "search.dense_weight=0", "--dry-run")
    assert made.exit_code == 0
    assert "gain" in made.stdout
    assert "tuned" not in run("stats").stdout


def test_what_was_kept_is_shown_and_taken_away(run: Run, pairs: Path, filled: Path) -> None:
    import embank
    from embank.store.tunings import Tuning

    with embank.open(filled, model="wordllama") as bank:
        notes = bank.collection()
        info = notes.stats()
        assert info is not None
        fusion = {"method": "scores", "dense_weight": 0.3, "coverage": 4.5}
        bank._engine.tunings.keep("default", Tuning(info.fingerprint or "", fusion, {"k": 10}))
    assert "searches of default are tuned: scores, dense weight 0.3" in run("stats").stdout
    told = json.loads(run("stats", "--json").stdout)["collections"][0]["tuning"]
    assert told["fusion"] == fusion
    assert json.loads(run("search", "evaluate", "--pairs", pairs, "--json").stdout)["tuned"] is True
    assert "taken away: scores, dense weight 0.3" in run("search", "tune", "--reset").stdout
    assert run("search", "tune", "--reset").stdout == "default was not tuned\n"
    assert json.loads(run("stats", "--json").stdout)["collections"][0]["tuning"] is None


@pytest.mark.usefixtures("filled")
def test_the_words_themselves_can_be_searched_for(run: Run) -> None:
    for words in (["--", "tune"], ["-k", "2", "tune"], ["tune the yeast"]):
        said = json.loads(run("search", "--json", *words).stdout)
        assert said["query"] == words[-1]
    asked = run("search", "tune")
    assert asked.exit_code == 2
    assert "embank search -- tune" in asked.stderr
    assert "embank search evaluate wants --pairs FILE" in run("search", "evaluate").stderr


def test_flags_that_contradict_each_other_and_bad_files(run: Run, pairs: Path) -> None:
    assert "--reset takes away" in run("search", "tune", "--reset", "--pairs", pairs).stderr
    pairs.write_text('{"question": "a"}\n')
    bad = run("search", "evaluate", "--pairs", pairs)
    assert bad.exit_code == 2
    assert "pairs.jsonl, line 1" in bad.stderr
    assert run("search", "evaluate", "--pairs", "nowhere.jsonl").exit_code != 0


@pytest.mark.usefixtures("filled")
def test_every_command_takes_the_same_filter(run: Run) -> None:
    where = json.dumps({"$or": [{"title": {"$contains": "iver"}}, {"#document": {"$contains": "yeast"}}]})
    wanted = ["deep/bread.txt", "rivers.md"]
    found = json.loads(run("search", "gas", "--where", where, "--json").stdout)["hits"]
    assert sorted(hit["id"] for hit in found) == wanted
    listed = json.loads(run("list", "--where", where, "--json").stdout)["documents"]
    assert [document["id"] for document in listed] == wanted
    assert run("count", "--where", where).stdout == "2\n"
    assert sorted(json.loads(run("purge", "--where", where, "--dry-run", "--json").stdout)["ids"]) == wanted
    assert json.loads(run("delete", "--where", where, "--yes", "--json").stdout)["deleted"] == 2
    assert run("count").stdout == "1\n"
    near = run("count", "--where", '{"title": {"$contain": "x"}}')
    assert near.exit_code == 2
    assert "did you mean $contains?" in near.stderr

"""`embank reduce`: what it prints, what it changes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run
from tests.reduce.conftest import texts

from embank.cli import errors


@pytest.fixture
def stories(run: Run, workplace: Path) -> Path:
    """300 short texts in the collection `stories`, vectors of 256 dimensions."""
    path = workplace / "stories.jsonl"
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts(300).items()))
    assert run("index", path, "-c", "stories").exit_code == 0
    return path


def told(run: Run, *words: object) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def collection(run: Run, name: str) -> dict[str, Any]:
    (found,) = told(run, "stats", "-c", name)["collections"]
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("stories")
def test_fit_then_apply_then_search(run: Run) -> None:
    shown = run("reduce", "fit", "-c", "stories", "--dimensions", 64)
    assert shown.exit_code == 0
    for words in (
        "a PCA from 256 to 64 dimensions, fitted on 300 of 300 vectors",
        "explained variance",
        "recall@10",
        "153.6 kB now, 38.4 kB then (75% less), as fp16".replace("153.6", "154"),
        "warning: fitted on 300 vectors, fewer than 5 for each of 64",
        "embank reduce apply -c stories",
    ):
        assert words in shown.stdout
    assert collection(run, "stories")["dimension"] == 256
    applied = run("reduce", "apply", "-c", "stories")
    assert applied.exit_code == 0
    assert "stories: 300 vectors of 64 dimensions as fp16" in applied.stdout
    after = collection(run, "stories")
    assert (after["dimension"], after["vector_bytes"], after["documents"]) == (64, 300 * 128, 300)
    hits = told(run, "search", texts(300)["d00017"], "-c", "stories", "--mode", "dense", "-k", 1)["hits"]
    assert hits[0]["id"] == "d00017"


def test_apply_into_another_collection_as_bytes(run: Run, stories: Path) -> None:
    report = told(run, "reduce", "fit", "-c", "stories", "-d", 128)
    assert (report["width"], report["dimension"], report["rows"]) == (256, 128, 300)
    assert report["judged"]["recall_low"] <= report["judged"]["recall"] <= report["judged"]["recall_high"]
    made = told(run, "reduce", "apply", "-c", "stories", "--into", "small", "--dtype", "int8")
    assert made["saved"] >= 0.7
    assert made["fingerprint"].endswith(f"+pca:128:{report['version']}")
    small, whole = collection(run, "small"), collection(run, "stories")
    assert (small["dtype"], small["dimension"], small["vector_bytes"]) == ("int8", 128, 300 * 132)
    assert (whole["dtype"], whole["dimension"]) == ("fp16", 256)
    again = told(run, "index", stories, "-c", "small")
    assert [source["embedded"] for source in again["sources"]] == [0]


@pytest.mark.usefixtures("stories")
def test_evaluate_shows_the_table_and_changes_nothing(run: Run, workplace: Path) -> None:
    before = collection(run, "stories")
    questions = workplace / "questions.txt"
    questions.write_text("t1w1 t1w2\n\nt2w3 t2w4\nt5w5\n", encoding="utf-8-sig")
    shown = run("reduce", "evaluate", "-c", "stories", "-d", 96, "-d", 32, "-k", 5, "--queries", questions)
    assert shown.exit_code == 0
    for words in ("recall@5", "cut (Matryoshka)", "fp16 (now)", "asked: 3 questions of yours", "150 others fitted"):
        assert words in shown.stdout
    evaluation = told(run, "reduce", "evaluate", "-c", "stories", "-d", 96)
    kept = {(line["name"], line["dimension"], line["dtype"]) for line in evaluation["lines"]}
    assert {("full", 256, "float32"), ("full", 256, "int8"), ("cut", 128, "fp16"), ("cut", 64, "int8")} <= kept
    assert ("PCA", 96, "int8") in kept
    assert collection(run, "stories") == before
    piped = run("reduce", "evaluate", "-c", "stories", "-d", 96, "--queries", "-", input="one question\n")
    assert "asked: 1 questions of yours" in piped.stdout


@pytest.mark.usefixtures("stories")
def test_refusals(run: Run, workplace: Path) -> None:
    (workplace / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for words, said in (
        (["apply"], "has no fitted PCA for its 256-dimensional vectors"),
        (["apply", "--dtype", "fp4"], "fp16 or int8, not 'fp4'"),
        (["fit", "-d", "256"], "1 up to 255, not to 256"),
        (["fit", "-d", "-1"], "not to -1"),
        (["fit", "-d", "200", "--sample", "100"], "at least 200 vectors (better 1000), there are 100"),
        (["evaluate", "--queries", "binary.txt"], "no UTF-8 text"),
        (["evaluate", "-k", "0"], "k must be"),
    ):
        result = run("reduce", *words, "-c", "stories")
        assert result.exit_code == errors.USAGE, result.output
        assert said in result.stderr
    assert run("reduce", "fit", "-d", 8, "-c", "other").exit_code == errors.NOT_FOUND
    assert run("reduce", "evaluate", "-c", "stories", "--queries", "missing.txt").exit_code == errors.STORAGE

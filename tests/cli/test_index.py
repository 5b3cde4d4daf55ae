"""`embank index show`, `plan` and `build`; and `embank index SOURCE`, which stays what it was."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.store.index.conftest import SPACE, add

from embank.cli import errors, evaluate
from embank.events.stream import Stream
from embank.store.index import faiss, lancedb
from embank.store.index.settings import Settings as IndexSettings
from embank.store.local import LocalStore
from embank.store.settings import Settings
from embank.testing.indexes import clustered


@pytest.fixture
def notes(run: Run, workplace: Path) -> Path:
    folder = workplace / "plan"
    folder.mkdir()
    (folder / "a.txt").write_text("The marram grass holds the dune together.")
    assert run("index", folder, "-c", "notes").exit_code == 0
    return folder


@pytest.mark.usefixtures("notes")
def test_a_small_collection_is_scanned_and_it_says_why(run: Run) -> None:
    shown = run("index", "show", "-c", "notes")
    assert shown.exit_code == 0
    assert "1 vector, scanned exactly" in shown.stdout
    assert "index.exact_below_rows" in shown.stdout
    document = json.loads(run("index", "show", "-c", "notes", "--json").stdout)
    assert document["index"]["method"] is None
    assert document["plan"] is None


@pytest.mark.usefixtures("notes")
def test_what_looks_like_a_subcommand_is_one_and_a_path_is_a_path(run: Run) -> None:
    refused = run("index", "plan", "-c", "notes")
    assert refused.exit_code == errors.USAGE
    assert "16,384 vectors or more" in refused.output
    assert run("index", "./plan", "-c", "notes").exit_code == 0


@pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")
def test_it_is_measured_built_and_shown(run: Run, workplace: Path) -> None:
    root = workplace / "embank.bank"
    settings = IndexSettings(kind="exact")
    store = LocalStore(root, read_only=False, settings=Settings(), index=settings, stream=Stream())
    add(store.collection("made-up"), clustered(17_000, seed=80))
    store.close()
    assert SPACE.dimension == 48
    (workplace / "embank.toml").write_text("[index]\nexact_below_rows = 10000\n")
    plan = run("index", "plan", "-c", "made-up")
    assert plan.exit_code == 0, plan.output
    assert "chosen" in plan.stdout
    assert "mixtures of 3 vectors" in plan.stdout
    built = json.loads(run("index", "build", "-c", "made-up", "--json").stdout)["index"]
    assert built["indexed_rows"] == 17_000
    shown = run("index", "show", "-c", "made-up")
    assert f"17,000 vectors searched with {built['method']}" in shown.stdout
    assert "chosen by measuring" in shown.stdout


@pytest.mark.skipif(not faiss.available(), reason="faiss-cpu is not installed")
def test_kinds_are_compared_on_a_collection_in_words(run: Run, workplace: Path) -> None:
    root = workplace / "embank.bank"
    settings = IndexSettings(kind="exact")
    store = LocalStore(root, read_only=False, settings=Settings(), index=settings, stream=Stream())
    add(store.collection("made-up"), clustered(4_200, seed=81))
    store.close()
    document = json.loads(run("index", "evaluate", "-c", "made-up", "--json").stdout)
    assert document["collection"] == "made-up"
    measured = {each["kind"]: each for each in document["comparison"]["measured"]}
    assert document["comparison"]["rows"] == 1_000
    assert measured["pq-fastscan"]["bytes"] < measured["flat"]["bytes"] / 2
    told = run("index", "evaluate", "-c", "made-up", "--rows", 500)
    assert told.exit_code == 0, told.output
    words = " ".join(told.stdout.split())
    assert re.search(r"PQ12x4fs saves \d+\.\d% of what flat holds at \d+\.\d% loss", words)
    assert "500 of 4,200 vectors of 48 dimensions, compared by cosine" in words


def test_where_there_is_no_bank_the_standard_library_is_compared(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not faiss.available():
        pytest.skip("faiss-cpu is not installed")
    monkeypatch.setattr(evaluate, "_DOCUMENTS", 200)
    document = json.loads(run("index", "evaluate", "--rows", 150, "--json").stdout)
    assert document["collection"] == "stdlib"
    assert document["comparison"]["refused"]["pq"].startswith("IVF1,PQ")
    assert not (workplace / "embank.bank").exists()


@pytest.mark.usefixtures("notes")
def test_a_metric_is_chosen_once(run: Run) -> None:
    assert run("add", "-c", "by-dot", "--metric", "dot", "--text", "One.").exit_code == 0
    assert "compared by dot" in run("index", "show", "-c", "by-dot").stdout
    assert json.loads(run("stats", "-c", "by-dot", "--json").stdout)["collections"][0]["metric"] == "dot"
    refused = run("index", "./plan", "-c", "by-dot", "--metric", "l2")
    assert refused.exit_code != 0
    assert "compares vectors by dot, not by l2" in refused.output
    assert run("add", "-c", "new", "--metric", "L3", "--text", "One.").exit_code == errors.USAGE


@pytest.mark.skipif(not lancedb.available(), reason="lancedb is not installed")
def test_another_library_s_index_is_built_and_shown_alike(run: Run, workplace: Path) -> None:
    settings = IndexSettings(kind="exact")
    store = LocalStore(workplace / "embank.bank", read_only=False, settings=Settings(), index=settings, stream=Stream())
    add(store.collection("made-up"), clustered(1_500, seed=81))
    store.close()
    (workplace / "embank.toml").write_text('[index]\nkind = "lancedb"\ntail_rows = 500\n')
    built = run("index", "build", "-c", "made-up")
    assert built.exit_code == 0, built.output
    assert "1,500 vectors searched with LanceDB" in built.stdout
    document = json.loads(run("index", "show", "-c", "made-up", "--json").stdout)
    assert document["index"]["indexed_rows"] == 1_500

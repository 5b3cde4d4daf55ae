"""`embank index show`, `plan` and `build`; and `embank index SOURCE`, which stays what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.store.index.conftest import SPACE, add

from embank.cli import errors
from embank.events.stream import Stream
from embank.store.index import faiss
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
    assert "mixtures of three vectors" in plan.stdout
    built = json.loads(run("index", "build", "-c", "made-up", "--json").stdout)["index"]
    assert built["indexed_rows"] == 17_000
    shown = run("index", "show", "-c", "made-up")
    assert f"17,000 vectors searched with {built['method']}" in shown.stdout
    assert "chosen by measuring" in shown.stdout

"""`embank models …` on the real MiniLM from its package and a hub on this machine; each in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.embed.files.test_inventory import fill_cache
from tests.embed.hub import FIRST, SECOND, StandInHub, serving
from tests.embed.tiny_bert import make_folder
from typer.testing import Result

from embank.cli.errors import MODEL, NOT_FOUND, REFUSED, USAGE
from embank.cli.progress import Doing
from embank.embed.files.catalog import MINILM
from embank.embed.files.inuse import hold
from embank.embed.files.locate import find_files

Run = Callable[..., Result]


@pytest.fixture
def models(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Embank's directory; the hub client's cache beside it."""
    monkeypatch.setenv("EMBANK_EMBED__DIRECTORY", str(workplace / "models"))
    monkeypatch.setenv("EMBANK_EMBED__THREADS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(workplace / "hf"))
    # For what runs in this process: the client reads the variable when it is imported.
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(workplace / "hf" / "hub"))
    return workplace / "models"


@pytest.fixture
def tiny(workplace: Path) -> Path:
    return make_folder(workplace / "tiny")


@pytest.fixture
def hub(tiny: Path) -> Iterator[StandInHub]:
    with serving() as server:
        files = {str(path.relative_to(tiny)): path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
        server.publish("someone/bert", files)
        yield server


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def listed(run: Run) -> dict[str, Any]:
    return {each["name"]: each for each in said(run("models", "list", "--json"))["files"]}


def test_the_real_model_is_converted_warmed_listed_and_pruned(run: Run, models: Path) -> None:
    if find_files(MINILM, directory=models) is None:
        pytest.skip(f"the files of minilm are not installed: {MINILM.install}")
    made = said(run("models", "convert", "minilm", "--precision", "int8", "--json"))
    assert (made["made"], made["engine"], made["precision"]) == (True, "ct2", "int8")
    assert {"checking files", "converting", "comparing with reference vectors"} <= set(made["steps"])
    assert not said(run("models", "convert", "minilm", "--json"))["made"]
    warmed = said(run("models", "warm", "minilm", "--json"))
    assert warmed["least_cosine"] >= 0.985
    assert warmed["dimension"] == 384
    assert list(warmed["steps"]) == ["checking files", "opening"]
    facts = said(run("models", "list", "--check", "--json"))
    (copy,) = [each for each in facts["files"] if each["kind"] == "converted"]
    assert (copy["name"], copy["problem"], copy["in_use"]) == ("minilm", None, False)
    assert facts["total_bytes"] == copy["bytes"] == made["bytes"]
    (known,) = [each for each in facts["models"] if each["name"] == "minilm"]
    assert known["converted"][0]["folder"] == copy["folder"]
    people = run("models", "list", env={"EMBANK_EMBED__DIRECTORY_LIMIT": "1GB"}).stdout
    assert "1.0 GB (embed.directory_limit)" in people
    assert "int8" in people
    gone = said(run("models", "prune", "minilm", "--yes", "--json"))
    assert gone["freed_bytes"] == copy["bytes"]
    assert not Path(copy["folder"]).exists()
    assert find_files(MINILM, directory=models) is not None  # its package is nobody's business here


def test_a_warm_model_for_people(run: Run, models: Path, tiny: Path) -> None:
    result = run("models", "warm", tiny)
    assert result.exit_code == 0
    assert "converting" in result.stdout
    assert "tiny is ready" in result.stdout
    assert "no reference to compare with" in result.stdout
    assert "tiny in int8 for ct2 is there, whole" in run("models", "convert", tiny).stdout
    assert "converted in" in run("models", "convert", tiny, "--force").stdout


def test_how_far_it_is_as_a_line_and_as_a_picture() -> None:
    doing = Doing("someone/bert")
    doing.update(0.42, "model.safetensors · 38 MB of 90 MB\x1b[2J")
    assert doing.line().startswith("someone/bert: 42%, model.safetensors · 38 MB of 90 MB")
    assert "\x1b" not in doing.line()
    drawn = str(doing.picture())
    assert "42%" in drawn
    assert drawn.count("█") == 10  # of 24


def test_a_wrong_precision_and_a_static_model_are_told(run: Run, models: Path, tiny: Path) -> None:
    result = run("models", "convert", tiny, "--precision", "int7")
    assert (result.exit_code, "int8, float32" in result.stderr) == (USAGE, True)
    result = run("models", "convert", "wordllama")
    assert (result.exit_code, "nothing to convert" in result.stderr) == (USAGE, True)


def test_a_repository_is_pulled_used_compared_renewed_and_pruned(
    run: Run, models: Path, hub: StandInHub, notes: Path
) -> None:
    pulled = said(run("models", "pull", "someone/bert", "--endpoint", hub.address, "--json"))
    assert (pulled["revision"], pulled["fetched"]) == (FIRST, True)
    assert "is here already" in run("models", "pull", "someone/bert", "--endpoint", hub.address).stdout
    assert run("index", notes, "--model", "someone/bert").exit_code == 0
    assert listed(run)["someone--bert"]["repository"] == "someone/bert"

    fresh = said(run("models", "outdated", "--endpoint", hub.address, "--json", "someone/bert"))
    assert fresh["models"][0]["standing"] == "current"
    hub.publish("someone/bert", {**hub.revisions["someone/bert", FIRST], "more.json": b"{}"}, commit=SECOND)
    people = run("models", "outdated", "--endpoint", hub.address, "someone/bert").stdout
    assert "embank models update someone/bert" in people
    renewed = said(run("models", "update", "someone/bert", "--endpoint", hub.address, "--json"))
    assert renewed["revision"] == SECOND
    assert Path(pulled["folder"]).is_dir()

    would = said(run("models", "prune", "--dry-run", "--json"))
    assert [(each["folder"], each["why"]) for each in would["removed"]] == [(pulled["folder"], "superseded")]
    assert Path(pulled["folder"]).is_dir()
    assert "superseded" in run("models", "prune", "--yes").stdout
    assert not Path(pulled["folder"]).exists()


def test_progress_goes_to_standard_error_and_a_refusal_has_its_code(run: Run, models: Path, hub: StandInHub) -> None:
    result = run("models", "pull", "someone/none", "--endpoint", hub.address)
    assert (result.exit_code, "HF_TOKEN" in result.stderr) == (NOT_FOUND, True)
    offline = run("models", "pull", "someone/bert", "--set", "embed.offline=true", "--json")
    assert offline.exit_code == MODEL
    assert json.loads(offline.stdout)["error"]["kind"] == "OfflineMode"
    assert run("models", "update", "minilm", "--endpoint", hub.address).exit_code == USAGE
    result = run("models", "pull", "someone/bert", "--endpoint", hub.address, "--set", "embed.directory_limit=1kB")
    assert (result.exit_code, "embed.directory_limit" in result.stderr) == (MODEL, True)


def test_what_is_in_use_is_not_pruned(run: Run, models: Path, tiny: Path) -> None:
    folder = Path(said(run("models", "convert", tiny, "--json"))["folder"])
    held = hold(folder, directory=models)
    assert held is not None
    assert listed(run)["tiny"]["in_use"]
    result = run("models", "prune", "tiny", "--yes", "--json")
    assert result.exit_code == REFUSED
    assert json.loads(result.stdout)["error"]["kind"] == "ModelInUse"
    result = run("models", "prune", "--to", "0", "--yes")
    assert result.exit_code == REFUSED
    assert "kept tiny" in result.stdout
    held.close()
    assert run("models", "prune", "--to", "0", "--yes").exit_code == 0
    assert not folder.exists()


def test_pruning_asks_first(run: Run, models: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(said(run("models", "convert", tiny, "--json"))["folder"])
    os.utime(folder, (1000, 1000))
    refused = run("models", "prune", "--older-than", "30d")
    assert (refused.exit_code, "--yes" in refused.stderr) == (USAGE, True)
    monkeypatch.setattr("embank.cli.model_files._is_a_terminal", lambda: True)
    assert run("models", "prune", "--older-than", "30d", input="n\n").exit_code == 0
    assert folder.exists()
    assert run("models", "prune", "--older-than", "30d", input="y\n").exit_code == 0
    assert not folder.exists()
    assert run("models", "prune").exit_code == 0  # nothing to remove, nothing to ask


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--older-than", "soon"], "such as 30d"),
        (["--to", "50%"], "512MB"),
        (["--to", "many"], "is not a size"),
        (["--hub-cache"], "say what is to go"),
        (["wordllama"], "remove its package"),
    ],
)
def test_what_cant_be_meant_is_told(run: Run, models: Path, flags: list[str], says: str) -> None:
    result = run("models", "prune", "--yes", *flags)
    assert result.exit_code == USAGE
    assert says in result.stderr


def test_the_hub_clients_cache_only_when_asked(run: Run, models: Path, workplace: Path) -> None:
    snapshot = fill_cache(workplace / "hf" / "hub", "someone/cached")
    assert listed(run)["someone/cached"]["kind"] == "hub-cache"
    said(run("models", "prune", "--to", "0", "--yes", "--json"))
    assert run("models", "prune", "someone/cached", "--yes").exit_code == NOT_FOUND
    assert snapshot.is_dir()
    gone = said(run("models", "prune", "--hub-cache", "someone/cached", "--yes", "--json"))
    assert gone["freed_bytes"] == 1000
    assert not snapshot.exists()


def test_the_hub_clients_own_variable_says_where_its_cache_is(models: Path, workplace: Path) -> None:
    fill_cache(workplace / "hf" / "hub", "someone/cached")
    command = [sys.executable, "-m", "embank", "models", "list", "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=workplace)
    files = {each["name"]: each for each in json.loads(told.stdout)["files"]}
    assert files["someone/cached"]["bytes"] == 1000
    assert told.stderr == ""

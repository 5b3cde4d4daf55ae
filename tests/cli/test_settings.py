from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Run = Callable[..., Result]


def test_each_setting_tells_where_it_came_from(run: Run, workplace: Path) -> None:
    (workplace / "own.toml").write_text("[chunk]\noverlap_tokens = 8\n", encoding="utf-8")
    flags = ("--config", "own.toml", "--memory", "300MB", "--set", "search.mode=dense")
    result = run("config", "show", "--json", *flags, env={"EMBANK_STORE__DTYPE": "int8"})
    said = json.loads(result.stdout)
    found = {row["key"]: (row["value"], row["provenance"]) for row in said["settings"]}
    assert found["chunk.overlap_tokens"] == (8, "file own.toml")
    assert found["memory.budget"] == ("300MB", "flag --memory")
    assert found["search.mode"] == ("dense", "flag --set")
    assert found["store.dtype"] == ("int8", "environment EMBANK_STORE__DTYPE")
    assert found["search.candidates"] == (100, "default")
    assert said["file"] == "own.toml"
    assert all(row["description"] for row in said["settings"])


def test_one_section_for_people(run: Run) -> None:
    result = run("config", "show", "memory")
    assert "memory.budget" in result.stdout
    assert "store.dtype" not in result.stdout
    assert run("config", "show", "memry").exit_code == 2
    assert "did you mean memory?" in run("config", "show", "memry").stderr


def test_a_wrong_setting_is_told_with_the_nearest_right_one(run: Run) -> None:
    result = run("count", "--set", "memory.bugdet=1GB")
    assert result.exit_code == 2
    assert "did you mean memory.budget?" in result.stderr
    assert "section.key=value" in run("count", "--set", "memory").stderr


def test_models_are_listed_with_where_they_are(run: Run, workplace: Path) -> None:
    said = json.loads(run("models", "list", "--json", "--set", f"embed.directory={workplace}").stdout)
    found = {model["name"]: model for model in said["models"]}
    assert found["wordllama"]["chosen"]
    assert found["wordllama"]["folder"] is not None
    assert found["minilm"]["license"] == "Apache-2.0"
    assert found["minilm"]["converted"] == []
    assert said["directory"] == str(workplace)
    people = run("models", "list").stdout
    assert "all-MiniLM-L6-v2" in people
    assert "MIT" in people


def test_a_damaged_copy_is_listed_as_such(run: Run, workplace: Path) -> None:
    (workplace / "minilm-53aa-int8-v1").mkdir()
    (workplace / "minilm-53aa-int8-v1" / "manifest.json").write_text("{", encoding="utf-8")
    said = json.loads(run("models", "list", "--json", "--set", f"embed.directory={workplace}").stdout)
    (copy,) = next(model["converted"] for model in said["models"] if model["name"] == "minilm")
    assert copy["precision"] == "damaged"


def test_an_unknown_model_is_not_pulled(run: Run) -> None:
    result = run("models", "pull", "minilmm")
    assert result.exit_code == 3
    assert "did you mean 'minilm'?" in result.stderr


def test_a_model_on_no_hub_says_how_to_get_it(run: Run) -> None:
    result = run("models", "pull", "wordllama", "--json")
    assert result.exit_code == 3
    assert "pip install" in json.loads(result.stdout)["error"]["message"]

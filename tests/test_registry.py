"""The tables of names: importing on demand, errors that help, entry points of third parties."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from embank.errors import InvalidInput
from embank.registry import ENGINES, SECTIONS, SOURCES, Table, import_path, nearest, resolve


def install(folder: Path, distribution: str, group: str, name: str, value: str) -> None:
    """What an installer leaves behind of a package with one entry point."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def test_a_name_resolves_to_what_its_path_names() -> None:
    table = Table("thing", {"join": "os.path:join", "nested": "collections:OrderedDict.fromkeys"})
    assert resolve(table, "join") is __import__("os").path.join
    assert resolve(table, "nested")("ab") == {"a": None, "b": None}


def test_an_unknown_name_lists_the_known_and_suggests_the_nearest() -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve(ENGINES, "statik")
    assert str(caught.value).startswith("unknown embedding engine 'statik': there are ct2, ")
    assert str(caught.value).endswith("did you mean 'static'?")


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(InvalidInput, match="unknown source 'zzzz'") as caught:
        resolve(SOURCES, "zzzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("json", "'json' is not an import path"),
        (":dumps", "is not an import path"),
        ("json:", "is not an import path"),
        ("no_such_package_here.x:y", "there is no module 'no_such_package_here'"),
        ("json.nothing:y", "there is no module 'json.nothing'"),
        ("json:dunps", "module 'json' has no 'dunps'"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(path: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        import_path(path)


def test_a_module_that_lacks_a_dependency_tells_its_own_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_plugin.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        import_path("needy_plugin:load")


def test_an_entry_point_adds_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third_party_engine.py").write_text("def load() -> str:\n    return 'theirs'\n")
    install(tmp_path, "third_party_engine", "embank.engines", "theirs", "third_party_engine:load")
    monkeypatch.syspath_prepend(tmp_path)
    assert "theirs" in ENGINES
    assert next(iter(ENGINES)) == "ct2"
    assert "theirs" in list(ENGINES)
    assert len(ENGINES) == len(list(ENGINES))
    assert resolve(ENGINES, "theirs")() == "theirs"
    assert "theirs" not in SOURCES


def test_an_entry_point_cannot_take_over_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "usurper", "embank.engines", "ct2", "usurper:load")
    monkeypatch.syspath_prepend(tmp_path)
    assert ENGINES["ct2"] == "embank.embed.engines.ct2:load"
    assert list(ENGINES).count("ct2") == 1


def test_two_packages_with_the_same_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "one", "embank.engines", "fast", "one:load")
    install(tmp_path, "two", "embank.engines", "fast", "two:load")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInput, match=r"more than one installed package.*'fast': one:load, two:load"):
        resolve(ENGINES, "fast")


def test_importing_the_tables_imports_no_room() -> None:
    code = "import sys, embank.registry; print(*sorted(m for m in sys.modules if m.startswith('embank.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["embank.errors", "embank.registry"]


@pytest.mark.parametrize(("table", "name"), [(table, name) for table in (SECTIONS, ENGINES, SOURCES) for name in table])
def test_every_path_in_the_tables_leads_somewhere(table: Table, name: str) -> None:
    found = resolve(table, name)
    assert callable(found)
    if table is SECTIONS:
        assert issubclass(found, BaseModel)
        assert found.model_config["frozen"]
        assert found.model_config["extra"] == "forbid"
        assert all(field.description for field in found.model_fields.values()), "config show has nothing to say"


@given(st.sampled_from(sorted(SECTIONS)), st.data())
def test_a_doubled_letter_still_finds_the_name(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(name) - 1))
    assert nearest(name[:place] + name[place] + name[place:], SECTIONS) == name


def test_nearest_finds_a_right_key_in_the_wrong_section() -> None:
    assert nearest("store.budget", ["memory.budget", "store.rows", "search.k"]) == "memory.budget"
    assert nearest("BUDGET", ["memory.budget", "search.k"]) == "memory.budget"
    assert nearest("anything", []) is None

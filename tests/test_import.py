"""`import embank` stays light, and gives what it promises."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import embank

# What takes long to import and must wait until it is used.
HEAVY = {
    "ctranslate2",
    "huggingface_hub",
    "numpy",
    "pydantic",
    "rich",
    "sqlite3",
    "tantivy",
    "tokenizers",
    "typer",
}


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after the statement."""
    script = f"import json, sys\n{statement}\njson.dump(sorted(sys.modules), sys.stdout)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(told.stdout))


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = imported_by("import embank")
    assert "embank" in loaded
    assert not sorted(loaded & HEAVY)
    assert {name for name in loaded if name.startswith("embank.")} <= {"embank.errors"}


def test_the_public_names_resolve() -> None:
    assert len(set(embank.__all__)) == len(embank.__all__)
    assert "open" in embank.__all__
    for name in embank.__all__:
        assert getattr(embank, name) is not None
        assert name in dir(embank)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        embank.no_such_name  # noqa: B018  # the access is the test


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(embank.__file__).parent / "py.typed").is_file()


def test_every_module_can_be_imported() -> None:
    package = Path(embank.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path.name == "__main__.py":
            continue  # running it is its purpose
        parts = path.relative_to(package.parent).with_suffix("").parts
        importlib.import_module(".".join(parts).removesuffix(".__init__"))

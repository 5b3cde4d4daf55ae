"""A folder of notes, and the program run in a folder of its own.

Commands run with the small static model that a package carries; where it is not installed, these tests are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from embank.cli.program import app
from embank.embed.files.catalog import WORDLLAMA
from embank.embed.files.locate import find_files

Run = Callable[..., Result]
TEXTS = {
    "rivers.md": "# Rivers\n\nRivers carry silt and sand down to the sea.\n",
    "backup.md": "# Backups\n\nA backup is restored with the restore command, from the newest copy.\n",
    "deep/bread.txt": "Bread rises because yeast makes gas from sugar.\n",
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, no settings in the environment but the model."""
    for name in [name for name in os.environ if name.startswith("EMBANK_")]:
        monkeypatch.delenv(name)
    if find_files(WORDLLAMA, directory=tmp_path) is None:
        pytest.skip("the package wordllama is not installed")
    monkeypatch.setenv("EMBANK_EMBED__MODEL", "wordllama")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(workplace: Path) -> Run:
    """Run a command in this process: `run("search", "silt", "-k", 2)`; options are keyword arguments of the runner."""

    def invoke(*words: object, **options: Any) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], **options)

    return invoke


@pytest.fixture
def notes(workplace: Path) -> Path:
    """A folder with three texts and a binary file."""
    for name, text in TEXTS.items():
        path = workplace / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (workplace / "notes" / "picture.dat").write_bytes(b"\0\1\2")
    return workplace / "notes"


@pytest.fixture
def filled(run: Run, notes: Path) -> Path:
    """The notes, indexed into ./embank.bank."""
    assert run("index", notes).exit_code == 0
    return notes.parent / "embank.bank"

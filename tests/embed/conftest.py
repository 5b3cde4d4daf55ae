"""Loaders over a folder that the whole run shares, so that each model is converted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embank.embed.files.catalog import KNOWN
from embank.embed.files.locate import find_files
from embank.embed.loader import Loader
from embank.embed.settings import Settings


def files_of(name: str) -> Path:
    """The folder of a known model's files; the test is skipped where its package is not installed."""
    folder = find_files(KNOWN[name], directory=Path("/nonexistent"))
    if folder is None:
        pytest.skip(f"the files of {name} are not installed: {KNOWN[name].install}")
    return folder


@pytest.fixture(scope="session")
def minilm_files() -> Path:
    return files_of("minilm")


@pytest.fixture(scope="session")
def wordllama_files() -> Path:
    return files_of("wordllama")


@pytest.fixture(scope="session")
def models_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def make_loader(models_directory: Path) -> Iterator[Callable[..., Loader]]:
    """Makes loaders with settings of one's own; all are closed at the end."""
    made: list[Loader] = []

    def make(**settings: object) -> Loader:
        loader = Loader(Settings.model_validate({"directory": models_directory, "threads": 2, **settings}))
        made.append(loader)
        return loader

    yield make
    for loader in made:
        loader.close()


@pytest.fixture(scope="session")
def loader(make_loader: Callable[..., Loader]) -> Loader:
    return make_loader()

"""Models made ready: converted on their own, and opened once and tried, on the real model that a package carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.embed.tiny_bert import make_folder

from embank.embed.files.prepare import convert, warm
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.errors import InvalidInput, ModelFileError, ModelNotFound


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(directory=tmp_path / "models", threads=1)


def test_a_folder_is_converted_once_and_anew_when_forced(tmp_path: Path, settings: Settings) -> None:
    folder = make_folder(tmp_path / "tiny")
    told: list[tuple[float, str]] = []
    first = convert(str(folder), settings=settings, on_progress=lambda *step: told.append(step))
    assert first.made
    assert (first.files.name, first.files.precision, first.files.in_use) == ("tiny", "int8", False)
    assert told[0] == (0.0, "checking files")
    again = convert(str(folder), settings=settings)
    assert not again.made
    assert again.files.folder == first.files.folder
    inode = (first.files.folder / "model.bin").stat().st_ino
    assert convert(str(folder), settings=settings, anew=True).made
    assert (first.files.folder / "model.bin").stat().st_ino != inode
    assert convert(str(folder), settings=settings, precision="float32").files.precision == "float32"


def test_a_model_in_use_goes_on_while_it_is_converted_anew(tmp_path: Path, settings: Settings) -> None:
    folder = make_folder(tmp_path / "tiny")
    loader = Loader(settings)
    model = loader.get(str(folder))
    before = model.embed(["alpha b"])
    assert convert(str(folder), settings=settings, anew=True).made
    assert np.array_equal(model.embed(["alpha b"]), before)
    loader.close()


def test_a_static_model_has_nothing_to_convert(wordllama_files: Path, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="nothing to convert"):
        convert("wordllama", settings=settings)


def test_what_is_not_here_or_damaged_is_told(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ModelNotFound):
        convert("nowhere", settings=settings)
    folder = make_folder(tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelFileError):
        convert(str(folder), settings=settings)


def test_a_warm_model_is_compared_with_the_original(minilm_files: Path, loader: Loader) -> None:
    warmed = warm(loader, "minilm")
    assert (warmed.name, warmed.engine, warmed.precision, warmed.dimension) == ("minilm", "ct2", "int8", 384)
    assert warmed.least_cosine is not None
    assert 0.985 <= warmed.least_cosine <= 1.0001
    assert warmed.used_bytes > 10_000_000
    assert warmed.first_text_s > 0


def test_a_model_without_stored_vectors_is_only_tried(tmp_path: Path, settings: Settings) -> None:
    loader = Loader(settings)
    warmed = warm(loader, str(make_folder(tmp_path / "tiny")), precision="float32")
    assert warmed.least_cosine is None
    assert (warmed.name, warmed.precision, warmed.dimension) == ("tiny", "float32", 16)
    loader.close()


def test_a_model_that_computes_wrongly_is_refused(
    minilm_files: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loader.get("minilm")
    right = type(model).embed
    monkeypatch.setattr(type(model), "embed", lambda self, texts, kind="passage": right(self, texts, kind)[::-1])
    with pytest.raises(ModelFileError, match="is refused"):
        warm(loader, "minilm")

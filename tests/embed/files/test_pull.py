"""Downloads from a server on this machine that answers as a Hugging Face hub does."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import shutil
import socket
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.embed.hub import FIRST, SECOND, HurriedClock, StandInHub, client_of, serving
from tests.embed.tiny_bert import make_folder

from embank.embed.files.catalog import MINILM, WORDLLAMA, KnownModel
from embank.embed.files.hub import Hub
from embank.embed.files.inventory import list_files
from embank.embed.files.locate import find_files, locate
from embank.embed.files.pull import PullProgress, pull
from embank.embed.files.pulled import read_pulled
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.errors import HubError, InvalidInput, ModelError, ModelFileError, ModelNotFound, OfflineMode
from embank.events.kinds import Event, ModelFilesRemoved, ModelPulled, ModelPullProgressed
from embank.testing.faults import FaultyFiles

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": bytes(range(256)) * 1000,
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
}
REST = {
    "README.md": b"# tiny",
    "pytorch_model.bin": b"pickled",
    "modeling_tiny.py": b"raise SystemExit",
    "tf_model.h5": b"tensors",
    "onnx/model.onnx": b"exported",
    "onnx/model_O4.onnx": b"exported, too",
    "../../evil.json": b"{}",
    "deep/er/config.json": b"{}",
    "tokenizer.json": b"{}",
    "vocab.txt": b"a\nb\n",
    "2_Dense/model.safetensors": b"dense",
}
TOTAL = sum(map(len, FILES.values()))


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with serving() as server:
        server.publish("someone/tiny", FILES)
        yield server


@pytest.fixture
def client(hub: StandInHub) -> Hub:
    return client_of(hub)


@pytest.fixture
def model() -> KnownModel:
    return dataclasses.replace(
        MINILM,
        name="tiny",
        repository="someone/tiny",
        revision=FIRST,
        package=None,
        files={name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
    )


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy between the client and the server here, no shared cache, nobody's token."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".lock"))


def files_in(folder: Path) -> list[str]:
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(set(found) - {"embank-pulled.json"})


# --- models that Embank knows ---------------------------------------------------------------------------------------


def test_a_model_is_pulled_whole_and_found(hub: StandInHub, client: Hub, model: KnownModel, tmp_path: Path) -> None:
    told: list[PullProgress] = []
    heard = Heard()
    pulled = pull(model, directory=tmp_path / "m", hub=client, on_progress=told.append, publisher=heard)
    folder = pulled.folder
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert left(tmp_path / "m") == [folder.name]
    assert files_in(folder) == sorted(FILES)
    assert find_files(model, directory=tmp_path / "m") == folder
    assert (pulled.revision, pulled.bytes, pulled.fetched) == (FIRST, TOTAL, True)
    done = [step.bytes_done for step in told]
    assert done == sorted(done)
    assert done[-1] == TOTAL
    assert {step.bytes_total for step in told} == {TOTAL}
    assert told[0].file == "config.json"
    (event,) = heard.of(ModelPulled)
    assert (event.model, event.revision, event.bytes) == ("tiny", FIRST, TOTAL)
    assert heard.of(ModelPullProgressed)[-1].bytes_done == TOTAL


def test_what_is_there_whole_is_not_fetched_again(
    hub: StandInHub, client: Hub, model: KnownModel, tmp_path: Path
) -> None:
    folder = pull(model, directory=tmp_path, hub=client).folder
    hub.asked.clear()
    again = pull(model, directory=tmp_path, hub=client)
    assert (again.folder, again.fetched) == (folder, False)
    assert hub.asked == []
    (folder / "config.json").write_bytes(b"{}")
    assert pull(model, directory=tmp_path, hub=client).fetched
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_a_file_that_is_not_the_published_one_is_deleted(
    hub: StandInHub, client: Hub, model: KnownModel, tmp_path: Path
) -> None:
    other = FILES["model.safetensors"][::-1]
    hub.publish("someone/tiny", {**FILES, "model.safetensors": other})
    with pytest.raises(ModelFileError, match=r"model\.safetensors .*not the file that was published") as caught:
        pull(model, directory=tmp_path / "m", hub=client)
    assert caught.value.fields["found"] == hashlib.sha256(other).hexdigest()
    assert find_files(model, directory=tmp_path / "m") is None
    assert not list((tmp_path / "m").rglob("model.safetensors"))


def test_a_file_that_the_hub_lacks_is_named(hub: StandInHub, client: Hub, model: KnownModel, tmp_path: Path) -> None:
    del hub.revisions["someone/tiny", FIRST]["1_Pooling/config.json"]
    with pytest.raises(ModelNotFound, match=r"the hub has no someone/tiny/1_Pooling/config\.json at revision c0ffee"):
        pull(model, directory=tmp_path / "m", hub=client)


def test_a_model_that_no_hub_has(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="pip install --no-deps wordllama"):
        pull(WORDLLAMA, directory=tmp_path, hub=Hub("http://127.0.0.1:9"))


# --- any repository of the hub --------------------------------------------------------------------------------------


def test_a_repository_is_pinned_to_the_commit_of_its_branch(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    pulled = pull("someone/tiny", directory=tmp_path, hub=client)
    assert pulled.revision == FIRST
    record = read_pulled(pulled.folder)
    assert record is not None
    assert (record.repository, record.revision, record.asked) == ("someone/tiny", FIRST, "main")
    weights = FILES["model.safetensors"]
    assert record.files["model.safetensors"] == {
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    hub.publish("someone/tiny", {**FILES, "config.json": b"{}"}, commit=SECOND)
    assert locate("someone/tiny", directory=tmp_path).folder == pulled.folder
    assert locate(f"someone/tiny@{FIRST[:8]}", directory=tmp_path).folder == pulled.folder
    assert locate(str(pulled.folder), directory=tmp_path).name == "someone--tiny"


def test_only_what_an_engine_needs_is_fetched_and_never_a_pickle(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.publish("someone/tiny", {**FILES, **REST})
    folder = pull("someone/tiny", directory=tmp_path / "m", hub=client).folder
    assert files_in(folder) == sorted([*FILES, "tokenizer.json", "vocab.txt", "2_Dense/model.safetensors"])
    assert not (tmp_path / "evil.json").exists()
    exported = pull("someone/tiny", directory=tmp_path / "n", hub=client, form="onnx").folder
    assert files_in(exported) == sorted(
        ["config.json", "1_Pooling/config.json", "tokenizer.json", "vocab.txt", "onnx/model.onnx"]
    )


def test_a_repository_of_pickles_is_refused(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.publish("someone/old", {"config.json": b"{}", "pytorch_model.bin": b"pickled"})
    with pytest.raises(ModelFileError, match=r"no weights in safetensors or ONNX .*pytorch_model\.bin, a pickle"):
        pull("someone/old", directory=tmp_path, hub=client)
    assert hub.gets() == []


def test_what_has_no_checksum_is_not_fetched(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.tells_checksums = False
    with pytest.raises(HubError, match="no checksum"):
        pull("someone/tiny", directory=tmp_path, hub=client)
    assert hub.gets() == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_not_what_the_hub_listed_is_refused(
    hub: StandInHub, client: Hub, tmp_path: Path, name: str
) -> None:
    hub.sent[name] = FILES[name][::-1]
    with pytest.raises(ModelFileError, match="not the file that was published"):
        pull("someone/tiny", directory=tmp_path, hub=client)
    assert locate_fails("someone/tiny", tmp_path)


def test_a_file_that_is_longer_than_listed_is_refused(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.sent["config.json"] = FILES["config.json"] * 2
    with pytest.raises(HubError, match="more than the 22 bytes"):
        pull("someone/tiny", directory=tmp_path, hub=client)


def test_another_revision_becomes_what_the_name_stands_for(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    first = pull("someone/tiny", directory=tmp_path, hub=client).folder
    hub.publish("someone/tiny", {**FILES, "config.json": b"{}"}, commit=SECOND, branch="next")
    second = pull("someone/tiny", directory=tmp_path, hub=client, revision="next").folder
    assert first.is_dir()
    assert locate("someone/tiny", directory=tmp_path).folder == second
    assert locate("someone/tiny@main", directory=tmp_path).folder == first
    hub.asked.clear()
    assert not pull("someone/tiny", directory=tmp_path, hub=client, revision=FIRST).fetched
    assert hub.gets() == []
    assert locate("someone/tiny", directory=tmp_path).folder == first


def test_another_form_comes_beside_the_first(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.publish("someone/tiny", {**FILES, **REST, "model.safetensors.index.json": b"{}"})
    first = pull("someone/tiny", directory=tmp_path, hub=client).folder
    assert (first / "model.safetensors.index.json").is_file()
    hub.asked.clear()
    both = pull("someone/tiny", directory=tmp_path, hub=client, form="onnx")
    assert both.folder == first
    assert hub.gets() == ["onnx/model.onnx"]
    assert {"model.safetensors", "onnx/model.onnx"} <= set(files_in(first))
    assert not pull("someone/tiny", directory=tmp_path, hub=client).fetched


def test_of_a_damaged_model_only_what_is_damaged_comes_again(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    folder = pull("someone/tiny", directory=tmp_path, hub=client).folder
    (folder / "config.json").write_bytes(FILES["config.json"][::-1])  # of the right size
    hub.asked.clear()
    assert pull("someone/tiny", directory=tmp_path, hub=client).fetched
    assert hub.gets() == ["config.json"]
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_what_was_pinned_to_a_commit_can_follow_a_branch(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    pull("someone/tiny", directory=tmp_path, hub=client, revision=FIRST)
    followed = pull("someone/tiny", directory=tmp_path, hub=client)
    record = read_pulled(followed.folder)
    assert not followed.fetched
    assert record is not None
    assert record.asked == "main"


def test_a_known_model_at_a_revision_is_its_repository(
    hub: StandInHub, client: Hub, model: KnownModel, tmp_path: Path
) -> None:
    assert pull(model, directory=tmp_path, hub=client, revision="main").name == "someone--tiny"


def test_a_pulled_repository_is_opened_by_its_name(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.publish("someone/bert", files)
    pulled = pull("someone/bert", directory=tmp_path / "m", hub=client)
    loader = Loader(Settings(directory=tmp_path / "m", threads=1))
    try:
        opened = loader.get("someone/bert")
        assert opened.fingerprint.startswith("someone--bert:ct2:int8:")
        in_use = {each.kind for each in list_files(tmp_path / "m", known={}) if each.in_use}
        assert in_use == {"converted", "pulled"}
    finally:
        loader.close()
    assert not any(each.in_use for each in list_files(tmp_path / "m", known={}))
    assert pulled.folder.is_dir()


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "../up", "someone/tiny@main", "some one/tiny"])
def test_what_is_no_repository_is_told(client: Hub, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="owner/name"):
        pull(name, directory=tmp_path, hub=client)


def test_a_repository_that_was_not_pulled_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="embank models pull someone/tiny --revision v2"):
        locate("someone/tiny@v2", directory=tmp_path)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_off_is_taken_up_again(hub: StandInHub, tmp_path: Path) -> None:
    clock = HurriedClock()
    hub.cuts["model.safetensors"] = 3
    folder = pull("someone/tiny", directory=tmp_path, hub=client_of(hub, clock=clock)).folder
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert len(clock.slept_s) == 3
    assert next(ask.split(" ")[1] for ask in hub.asked if " " in ask) == "bytes=128000-"


def test_an_interrupted_download_goes_on_where_it_ended(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = 1
    hub.statuses["nothing"] = (500, None)

    class Killed(BaseException):
        pass

    def die_in_the_middle(step: PullProgress) -> None:
        if step.file == "model.safetensors" and step.bytes_done > len(FILES["config.json"]) + 100_000:
            raise Killed

    with pytest.raises(Killed):
        pull("someone/tiny", directory=tmp_path, hub=client, on_progress=die_in_the_middle)
    (leftover,) = [each for each in list_files(tmp_path, known={}) if each.kind == "leftover"]
    assert not leftover.in_use
    hub.asked.clear()
    told: list[PullProgress] = []
    folder = pull("someone/tiny", directory=tmp_path, hub=client, on_progress=told.append).folder
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    (ranged,) = [ask.split(" ")[1] for ask in hub.asked if " " in ask]
    assert int(ranged.removeprefix("bytes=").removesuffix("-")) > 100_000
    assert left(tmp_path) == [".someone--tiny.current", folder.name]


def test_a_hub_without_ranges_sends_the_whole_again(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.knows_ranges = False
    hub.cuts["model.safetensors"] = 1
    folder = pull("someone/tiny", directory=tmp_path, hub=client).folder
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_hub_that_fails_again_and_again_is_told(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.statuses["/resolve/"] = (503, None)
    with pytest.raises(HubError, match=r"broke off at 0 of 34 bytes: the hub answered 503; the same command goes on"):
        pull("someone/tiny", directory=tmp_path, hub=client)
    hub.statuses.clear()
    assert pull("someone/tiny", directory=tmp_path, hub=client).fetched


@pytest.mark.parametrize("unreachable", ["closed", "no hub"])
def test_a_hub_that_cant_be_reached_is_told(hub: StandInHub, tmp_path: Path, unreachable: str) -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        if unreachable == "no hub":
            hub.statuses["/api/"] = (502, None)
            address = hub.address
        with pytest.raises(HubError, match=r"can't be reached for someone/tiny at revision main.*network"):
            pull("someone/tiny", directory=tmp_path, hub=Hub(address, clock=HurriedClock()))


def test_offline_means_offline(hub: StandInHub, model: KnownModel, client: Hub, tmp_path: Path) -> None:
    offline = Hub(hub.address, offline=True)
    for what in (model, "someone/tiny"):
        with pytest.raises(OfflineMode, match=r"embed\.offline is set"):
            pull(what, directory=tmp_path, hub=offline)
    assert hub.asked == []
    pull(model, directory=tmp_path, hub=client)
    assert not pull(model, directory=tmp_path, hub=offline).fetched


def test_the_clients_own_switch_is_named(client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineMode, match="HF_HUB_OFFLINE"):
        pull("someone/tiny", directory=tmp_path, hub=client)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ((401, "GatedRepo"), HubError, "agreed to its terms.*HF_TOKEN"),
        ((403, "GatedRepo"), HubError, "agreed to its terms.*HF_TOKEN"),
        ((401, "RepoNotFound"), ModelNotFound, "has no someone/tiny.*HF_TOKEN"),
        ((401, None), ModelNotFound, "HF_TOKEN"),
        ((403, None), HubError, "refused.*403.*HF_TOKEN"),
        ((404, "RevisionNotFound"), ModelNotFound, "has no someone/tiny at revision main"),
        ((418, None), HubError, "refused someone/tiny at revision main with status 418"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: StandInHub, tmp_path: Path, answer: tuple[int, str | None], kind: type[ModelError], says: str
) -> None:
    hub.statuses["/api/"] = answer
    with pytest.raises(kind, match=says):
        pull("someone/tiny", directory=tmp_path, hub=client_of(hub))


def test_the_users_token_goes_along_where_it_is_wanted(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    pull("someone/tiny", directory=tmp_path / "a", hub=client_of(hub))
    assert set(hub.tokens) == {"Bearer hf_made_up"}
    hub.tokens.clear()
    pull("someone/tiny", directory=tmp_path / "b", hub=client_of(hub, as_user=False))
    assert set(hub.tokens) == {None}


def test_a_full_disk_is_told_and_given_back(hub: StandInHub, tmp_path: Path) -> None:
    files = FaultyFiles()
    files.room_bytes = 100_000
    with pytest.raises(ModelFileError, match=rf"{os.strerror(errno.ENOSPC)}.*embed\.directory"):
        pull("someone/tiny", directory=tmp_path, hub=client_of(hub, files=files))
    assert left(tmp_path) == []


def test_too_little_room_is_told_before_anything_comes(
    hub: StandInHub, client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - as the standard library's
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ModelFileError, match="1,000 bytes free"):
        pull("someone/tiny", directory=tmp_path, hub=client)
    assert hub.gets() == []


def test_a_folder_that_cant_be_written(client: Hub, model: KnownModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match=r"embed\.directory"):
        pull(model, directory=tmp_path / "file" / "m", hub=client)


def test_two_that_pull_at_once_fetch_it_once(hub: StandInHub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(pull, "someone/tiny", directory=tmp_path, hub=client_of(hub)) for _ in range(2)]
        assert sorted(job.result().fetched for job in jobs) == [False, True]
    assert sorted(hub.gets()) == sorted(FILES)


# --- the limit ------------------------------------------------------------------------------------------------------


def test_what_alone_is_over_the_limit_is_not_begun(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"256,056 bytes, more than the 200,000 .*embed\.directory_limit"):
        pull("someone/tiny", directory=tmp_path, hub=client, limit_bytes=200_000)
    assert hub.gets() == []


def test_the_oldest_go_when_a_new_one_comes(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.publish("someone/other", FILES, commit=SECOND)
    heard = Heard()
    old = pull("someone/tiny", directory=tmp_path, hub=client, limit_bytes=400_000, publisher=heard).folder
    assert heard.of(ModelFilesRemoved) == []
    new = pull("someone/other", directory=tmp_path, hub=client, limit_bytes=400_000, publisher=heard).folder
    assert new.is_dir()
    assert not old.exists()
    (gone,) = heard.of(ModelFilesRemoved)
    assert (gone.model, gone.why, gone.folder) == ("someone--tiny", "limit", str(old))


def locate_fails(name: str, directory: Path) -> bool:
    with pytest.raises(ModelNotFound):
        locate(name, directory=directory)
    return True

"""Downloads from a server on this machine that answers as a Hugging Face hub does."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from embank.embed.catalog import MINILM, WORDLLAMA, KnownModel
from embank.embed.locate import find_files
from embank.embed.pull import pull
from embank.errors import ModelError, ModelFileError, ModelNotFound

REVISION = "c0ffee" * 6 + "c0ff"
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": bytes(range(256)) * 1000,
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
}


class Hub(ThreadingHTTPServer):
    """Serves `files` of one repository at one revision; `cut` files break off in the middle."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.cut: set[str] = set()
        self.gets: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up on a broken answer is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        start = f"/someone/tiny/resolve/{REVISION}/"
        name = self.path.removeprefix(start) if self.path.startswith(start) else ""
        content = self.server.files.get(name)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if name else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if with_body:
            self.server.gets.append(name)
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')  # noqa: S324 - as hubs do
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)
            if name in self.server.cut:
                self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Silent."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def model() -> KnownModel:
    return dataclasses.replace(
        MINILM,
        name="tiny",
        repository="someone/tiny",
        revision=REVISION,
        package=None,
        files={name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
    )


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy between the client and the server here, and no shared cache."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".lock"))


def test_a_model_is_pulled_whole_and_found(hub: Hub, model: KnownModel, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    folder = pull(model, directory=tmp_path / "m", progress=lambda *step: told.append(step), endpoint=hub.address)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert left(tmp_path / "m") == [folder.name]
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(FILES)
    assert find_files(model, directory=tmp_path / "m") == folder
    assert [file for file, _ in told] == [*FILES, ""]
    assert [fraction for _, fraction in told] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_what_is_there_whole_is_not_fetched_again(hub: Hub, model: KnownModel, tmp_path: Path) -> None:
    folder = pull(model, directory=tmp_path, progress=lambda *_: None, endpoint=hub.address)
    hub.gets.clear()
    assert pull(model, directory=tmp_path, progress=lambda *_: None, endpoint=hub.address) == folder
    assert hub.gets == []
    (folder / "config.json").write_bytes(b"{}")
    pull(model, directory=tmp_path, progress=lambda *_: None, endpoint=hub.address)
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_a_file_that_is_not_the_published_one_is_deleted(hub: Hub, model: KnownModel, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = b"other weights"
    with pytest.raises(ModelFileError, match=r"model\.safetensors .*not the file that was published") as caught:
        pull(model, directory=tmp_path / "m", progress=lambda *_: None, endpoint=hub.address)
    assert caught.value.fields["found"] == hashlib.sha256(b"other weights").hexdigest()
    assert left(tmp_path / "m") == []


def test_a_file_that_the_hub_lacks_is_named(hub: Hub, model: KnownModel, tmp_path: Path) -> None:
    del hub.files["1_Pooling/config.json"]
    with pytest.raises(ModelError, match=r"the hub has no someone/tiny/1_Pooling/config\.json at revision c0ffee"):
        pull(model, directory=tmp_path / "m", progress=lambda *_: None, endpoint=hub.address)
    assert left(tmp_path / "m") == []


def test_a_repository_that_the_hub_lacks_is_named(hub: Hub, model: KnownModel, tmp_path: Path) -> None:
    other = dataclasses.replace(model, repository="someone/else")
    with pytest.raises(ModelError, match="someone/else"):
        pull(other, directory=tmp_path / "m", progress=lambda *_: None, endpoint=hub.address)


def test_a_connection_that_breaks_off_keeps_nothing(
    hub: Hub, model: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the client's, between its attempts
    hub.cut.add("model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        pull(model, directory=tmp_path / "m", progress=lambda *_: None, endpoint=hub.address)
    assert left(tmp_path / "m") == []


def test_a_hub_that_cant_be_reached_is_told(model: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the client's, between its attempts
    with pytest.raises(ModelError, match=r"downloading someone/tiny/config\.json .* failed|the hub"):
        pull(model, directory=tmp_path / "m", progress=lambda *_: None, endpoint="http://127.0.0.1:9")
    assert left(tmp_path / "m") == []


def test_a_model_that_no_hub_has(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="pip install --no-deps wordllama"):
        pull(WORDLLAMA, directory=tmp_path, progress=lambda *_: None)


def test_a_folder_that_cant_be_written(hub: Hub, model: KnownModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match=r"embed\.directory"):
        pull(model, directory=tmp_path / "file" / "m", progress=lambda *_: None, endpoint=hub.address)

"""Chroma, in files of its own and on a server: the shipped contracts, and what goes wrong with a server."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import numpy as np
import pytest
from tests.store.index.conftest import exact

from embank.errors import IndexUnavailable, MissingExtra
from embank.events.kinds import IndexFailed
from embank.events.stream import Stream
from embank.store.collection import StoredCollection
from embank.store.index import chroma, faiss
from embank.store.index.backend import Home
from embank.store.index.base import IndexStatus
from embank.store.index.chroma import _DATABASE, BACKEND, ChromaCodes
from embank.store.index.settings import Settings
from embank.testing.backends import BackendContract, Opener, add, found
from embank.testing.indexes import DIMENSION, BuildCodes, CodesContract, Float32, clustered, questions

_POLL_S = 0.05


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Server:
    """A Chroma server on loopback, ended by its own process id."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        run = "import sys; from chromadb.cli.cli import app; sys.exit(app())"
        arguments = ["run", "--path", str(self._folder), "--host", "127.0.0.1", "--port", str(self.port)]
        with (self._folder.parent / "server.log").open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-c", run, *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx2.get(f"{self.url}/api/v2/heartbeat", timeout=5).status_code == 200:
                    return
            except httpx2.HTTPError:
                assert time.monotonic() < deadline, "the Chroma server does not start"
                assert self._process.poll() is None, "the Chroma server ended"
            time.sleep(_POLL_S)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, method: str, path: str, body: object) -> Any:
        answer = httpx2.request(method, f"{self.url}{_DATABASE}{path}", json=body, timeout=30)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def change(self, name: str, act: str, body: object) -> None:
        self.ask("POST", f"/{self.ask('GET', f'/{name}', None)['id']}/{act}", body)

    def names(self) -> set[str]:
        return {each["name"] for each in self.ask("GET", "?limit=1000", None)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("chroma") / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def served(server: Server, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(tmp_path / "bank", {"kind": "chroma", "chroma_url": server.url})
    yield opener
    opener.close()


pytestmark = pytest.mark.skipif(not chroma.available(), reason="chromadb is not installed")


class TestFiles(BackendContract):
    settings: ClassVar = {"kind": "chroma"}
    rows = 2_000
    readers = False


class TestServer(BackendContract):
    settings: ClassVar = {"kind": "chroma"}
    rows = 2_000

    @pytest.fixture
    def bank(self, filled: Path, tmp_path: Path, server: Server) -> Iterator[Opener]:
        shutil.copytree(filled, tmp_path / "bank")
        opener = Opener(tmp_path / "bank", {"kind": "chroma", "chroma_url": server.url})
        yield opener
        opener.close()


class TestFilesCodes(CodesContract):
    @pytest.fixture
    def build(self, tmp_path: Path) -> BuildCodes:
        number = itertools.count()

        def build(vectors: Float32) -> ChromaCodes:
            settings = Settings(kind="chroma")
            home = Home(tmp_path / str(next(number)), "t", settings)
            codes = BACKEND.make(BACKEND.way(settings, "chroma", DIMENSION, len(vectors), "cosine"), vectors, home)
            codes.add(vectors)
            return codes

        return build


def _status(collection: StoredCollection) -> IndexStatus:
    status = collection.index.status()
    assert status is not None
    return status


def _an_hour_later(collection: StoredCollection) -> None:
    with collection._vector_view() as opened:
        assert opened is not None
        opened[0]._load_after_s = opened[0]._build_after_s = 0.0


def _agrees(collection: StoredCollection, vectors: Float32) -> None:
    for query in questions(vectors, 5, seed=161):
        _, scores = found(collection, query)
        np.testing.assert_allclose(scores, exact(vectors, query), atol=1e-4)


def test_while_the_server_is_down_answers_are_exact_and_it_says_so(server: Server, served: Opener) -> None:
    vectors = clustered(1_000, seed=160)
    stream = Stream()
    inbox = stream.subscribe(kinds=(IndexFailed,))
    collection = served(stream=stream)
    add(collection, vectors)
    collection.index.refresh()
    server.stop()
    try:
        _agrees(collection, vectors)
        assert not _status(collection).loaded
        assert f"the Chroma server {server.url} does not answer" in (_status(collection).reason or "")
        assert len(inbox.drain()) == 1  # once, not with every search
        served.close()
        again = served(stream=stream)
        _agrees(again, vectors)
        assert "does not answer" in (_status(again).reason or "")
        add(again, clustered(600, seed=162), first=1_000)
        _an_hour_later(again)
        with pytest.raises(IndexUnavailable, match="does not answer"):
            again.index.refresh()
    finally:
        server.start()
    _an_hour_later(again)
    found(again, vectors[7], 1)
    assert _status(again).loaded
    assert _status(again).reason is None


@pytest.mark.parametrize("damage", ["removed", "more", "fewer", "foreign"])
def test_a_collection_that_others_changed_is_not_believed(server: Server, served: Opener, damage: str) -> None:
    vectors = clustered(1_000, seed=163)
    collection = served()
    before = server.names()
    add(collection, vectors)
    collection.index.refresh()
    (name,) = server.names() - before
    served.close()
    if damage == "removed":
        server.ask("DELETE", f"/{name}", None)
    elif damage == "fewer":
        server.change(name, "delete", {"ids": ["1", "2"]})
    else:
        row = [[0.1] * DIMENSION]
        server.change(name, "upsert", {"ids": ["x" if damage == "foreign" else "1000"], "embeddings": row})
    again = served()
    _agrees(again, vectors)
    assert not _status(again).loaded
    again.index.refresh()
    assert _status(again).loaded
    _agrees(again, vectors)
    assert len(server.names() - before) == 1


def test_a_collection_that_vanishes_in_use_costs_no_answer(server: Server, served: Opener) -> None:
    vectors = clustered(1_000, seed=164)
    collection = served()
    before = server.names()
    add(collection, vectors)
    collection.index.refresh()
    for name in server.names() - before:
        server.ask("DELETE", f"/{name}", None)
    _agrees(collection, vectors)
    assert "the collection is gone" in (_status(collection).reason or "")
    _an_hour_later(collection)
    collection.index.refresh()
    assert _status(collection).loaded
    _agrees(collection, vectors)


def test_a_replaced_generation_and_another_kind_leave_nothing_on_the_server(server: Server, served: Opener) -> None:
    before = server.names()
    collection = served()
    add(collection, clustered(1_500, seed=165))
    collection.index.refresh()
    (first,) = server.names() - before
    collection.delete(["d1", "d2"])
    collection.compact()
    collection.index.refresh()
    (second,) = server.names() - before
    assert first != second
    served.close()
    if faiss.available():
        other = served(kind="flat", chroma_url=None)
        other.index.refresh()
        assert server.names() == before


def test_a_copy_of_a_bank_does_not_share_the_original_s_collection(
    server: Server, served: Opener, tmp_path: Path
) -> None:
    vectors = clustered(1_000, seed=166)
    before = server.names()
    collection = served()
    add(collection, vectors)
    collection.index.refresh()
    original = server.names() - before
    served.close()
    shutil.copytree(tmp_path / "bank", tmp_path / "copy")
    copies = Opener(tmp_path / "copy", {"kind": "chroma", "chroma_url": server.url})
    copy = copies()
    add(copy, clustered(600, seed=167), first=1_000)
    copy.index.refresh()
    assert _status(copy).indexed_rows == 1_600
    copies.close()
    assert original < server.names() - before
    again = served()
    _agrees(again, vectors)
    assert _status(again).loaded


def test_without_the_package_files_name_the_extra_and_a_server_needs_none(
    bank: Opener, served: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "chromadb", None)
    vectors = clustered(1_000, seed=168)
    with pytest.raises(MissingExtra, match=r"pip install 'embank\[chroma\]'"):
        bank(kind="chroma")
    collection = served()
    add(collection, vectors)
    collection.index.refresh()
    assert _status(collection).loaded

"""A stand-in hub on this machine: answers as a Hugging Face hub does, for a few repositories that tests make up."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from embank.embed.files.hub import Hub
from embank.system.clock import SystemClock

FIRST, SECOND = "c0ffee" * 6 + "c0ff", "beefed" * 6 + "beef"


class StandInHub(ThreadingHTTPServer):
    """`revisions` maps (repository, commit) to files, `refs` (repository, name) to a commit.

    `cuts` says how often the sending of a file still breaks off in its middle, `sent` what is sent instead of what is
    listed, `statuses` what a path that holds the key is answered with, and its `X-Error-Code`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.revisions: dict[tuple[str, str], dict[str, bytes]] = {}
        self.refs: dict[tuple[str, str], str] = {}
        self.cuts: dict[str, int] = {}
        self.sent: dict[str, bytes] = {}
        self.statuses: dict[str, tuple[int, str | None]] = {}
        self.knows_ranges = True
        self.tells_checksums = True
        self.asked: list[str] = []
        """Paths of requests, with the range behind those that had one."""
        self.tokens: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def publish(
        self, repository: str, files: Mapping[str, bytes], *, commit: str = FIRST, branch: str = "main"
    ) -> None:
        self.revisions[repository, commit] = dict(files)
        self.refs[repository, branch] = commit

    def gets(self) -> list[str]:
        """The files that were asked for."""
        return [path.split("/resolve/")[1].partition("/")[2] for path in self.asked if "/resolve/" in path]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up on a broken answer is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: StandInHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        asked_range = self.headers.get("Range")
        hub.asked.append(path + (f" {asked_range}" if asked_range else ""))
        hub.tokens.append(self.headers.get("Authorization"))
        for key, (status, code) in hub.statuses.items():
            if key in path:
                self._refuse(status, code)
                return
        if path.startswith("/api/models/"):
            self._tell(path.removeprefix("/api/models/"))
        else:
            self._send(path.removeprefix("/"), asked_range)

    def _tell(self, path: str) -> None:
        hub = self.server
        repository, _, revision = path.partition("/revision/")
        commit = hub.refs.get((repository, revision), revision)
        files = hub.revisions.get((repository, commit))
        if files is None:
            there = any(repository == each for each, _ in hub.revisions)
            self._refuse(404 if there else 401, "RevisionNotFound" if there else "RepoNotFound")
            return
        siblings = [self._facts(name, content) for name, content in files.items()]
        content = json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
        self._answer(200, content)

    def _facts(self, name: str, content: bytes) -> dict[str, Any]:
        facts: dict[str, Any] = {"rfilename": name, "size": len(content)}
        if not self.server.tells_checksums:
            return facts
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - as git does
        facts["blobId"] = blob
        if name.endswith((".safetensors", ".onnx", ".bin")):
            facts["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return facts

    def _send(self, path: str, asked_range: str | None) -> None:
        hub = self.server
        repository, _, rest = path.partition("/resolve/")
        commit, _, name = rest.partition("/")
        files = hub.revisions.get((repository, commit), {})
        if name not in files:
            self._refuse(404, "EntryNotFound")
            return
        content = hub.sent.get(name, files[name])
        status, start = 200, 0
        if asked_range and hub.knows_ranges:
            status, start = 206, int(asked_range.removeprefix("bytes=").removesuffix("-"))
        rest_of_it = content[start:]
        cut = hub.cuts.get(name, 0) > 0
        if cut:
            hub.cuts[name] -= 1
        self._answer(status, rest_of_it, send=rest_of_it[: len(rest_of_it) // 2] if cut else rest_of_it)
        if cut:
            self.close_connection = True

    def _refuse(self, status: int, code: str | None) -> None:
        self._answer(status, b"", headers={"X-Error-Code": code} if code else {})

    def _answer(
        self, status: int, content: bytes, *, send: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if send is None else send)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Silent."""


class HurriedClock(SystemClock):
    """Pauses are counted, not waited for."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


@contextmanager
def serving() -> Iterator[StandInHub]:
    """A stand-in hub that answers until the block ends."""
    server = StandInHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def client_of(server: StandInHub, **options: Any) -> Hub:
    """A client of the stand-in that waits for nothing."""
    return Hub(server.address, **{"clock": HurriedClock(), **options})

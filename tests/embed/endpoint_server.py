"""A real embeddings endpoint on loopback, backed by hashed words, that misbehaves as it is told to."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from embank.testing.fakes import HashModel

Body = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Body

    @property
    def texts(self) -> list[str]:
        texts: list[str] = self.body["input"]
        return texts


class EndpointServer(ThreadingHTTPServer):
    """`script` holds what the next requests get instead of a right answer, first come, first served.

    `spoil` changes each right answer, as an object, before it is sent. `floats` answers with lists of numbers.
    """

    daemon_threads = True

    def __init__(self, model: HashModel) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model
        self.script: list[Callable[[_Handler], None]] = []
        self.spoil: Callable[[Body], Any] = lambda answer: answer
        self.floats = False
        self.seen: list[Seen] = []
        self.connections = 0
        self.under_way = 0
        self.most_under_way = 0
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def texts(self) -> list[str]:
        """Every text that was asked for, in the order of arrival; without the one that learns the width."""
        return [text for request in self.seen for text in request.texts if text != "dimension"]

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""

    def answer(self, body: Body) -> Body:
        vectors = self.model.embed(body["input"])[:, : body.get("dimensions")]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": self.written(vector)}
                for index, vector in enumerate(vectors)
            ],
            "model": body["model"],
            "usage": {"prompt_tokens": sum(self.model.count_tokens(body["input"])), "total_tokens": 0},
        }

    def written(self, vector: Any) -> Any:
        return vector.tolist() if self.floats else base64.b64encode(vector.astype("<f4").tobytes()).decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else head and body of an answer wait for each other
    server: EndpointServer
    body: Body

    def do_POST(self) -> None:
        server = self.server
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append(Seen(self.path, dict(self.headers), self.body))
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            act = server.script.pop(0) if server.script else answer_rightly
        try:
            act(self)
        finally:
            with server.lock:
                server.under_way -= 1

    def send(self, content: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def answer_rightly(handler: _Handler) -> None:
    server = handler.server
    handler.send(json.dumps(server.spoil(server.answer(handler.body))).encode())


def status(
    code: int, message: str = "no reason", *, headers: Mapping[str, str] | None = None
) -> Callable[[_Handler], None]:
    """An error in the form that the API documents."""
    content = json.dumps({"error": {"message": message, "type": "t", "param": None, "code": None}}).encode()
    return lambda handler: handler.send(content, status=code, headers=headers)


def raw(content: bytes, *, code: int = 200, headers: Mapping[str, str] | None = None) -> Callable[[_Handler], None]:
    return lambda handler: handler.send(content, status=code, headers=headers)


def silence(handler: _Handler) -> None:
    """No answer until the server ends."""
    handler.server.ended.wait(30)
    handler.close_connection = True


def drops(handler: _Handler) -> None:
    """An answer that never ends, a byte at a time: each comes in time, the whole does not."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.ended.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def hang_up(handler: _Handler) -> None:
    """The connection ends before an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def hang_up_in_the_middle(handler: _Handler) -> None:
    """The connection ends after half of a right answer."""
    content = json.dumps(handler.server.answer(handler.body)).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    hang_up(handler)


def flood(handler: _Handler) -> None:
    """A body without an end, and without a length."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    block = b"10000\r\n" + b" " * 65536 + b"\r\n"
    while not handler.server.ended.is_set():
        handler.wfile.write(block)


@contextmanager
def running(model: HashModel) -> Iterator[EndpointServer]:
    server = EndpointServer(model)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(10)

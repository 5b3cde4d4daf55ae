"""A server on a free port of 127.0.0.1, in a thread, with a model that needs no files; one for each test module."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import httpx2

from embank.bank import Bank, open_bank
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from embank.http.server import BankServer

Serve = Callable[..., Any]


@dataclass
class Served:
    """A running server: its bank, itself, and a plain client of it."""

    bank: Bank
    server: BankServer
    http: httpx2.Client

    @property
    def url(self) -> str:
        return self.server.endpoint

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.rpartition("//")[2].rpartition(":")
        return host, int(port)


@contextmanager
def serving(
    path: Path, *, model: Any = None, memory: str = "2GB", flags: Mapping[str, Any] | None = None, **settings: Any
) -> Iterator[Served]:
    """Serve the bank at `path`; settings of section `http` are keyword arguments, others stand in `flags`."""
    from embank.http.server import BankServer

    ready = threading.Event()
    flags = {"http.port": 0, **{f"http.{key}": value for key, value in settings.items()}, **(flags or {})}
    with open_bank(path, model=model or HashModel(), memory=memory, flags=flags) as bank:
        server = BankServer(bank, on_ready=lambda _: ready.set())
        thread = threading.Thread(target=server.serve_until_stopped)
        thread.start()
        try:
            assert ready.wait(60), "the server did not start"
            with httpx2.Client(base_url=server.endpoint, timeout=60) as http:
                yield Served(bank, server, http)
        finally:
            server.stop()
            thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


def raw(served: Served, *pieces: bytes, wait_s: float = 20.0) -> bytes:
    """Send bytes; all that comes back until the server closes or says nothing more."""
    with socket.create_connection(served.address, timeout=wait_s) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        try:
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionResetError:
            pass
        return received

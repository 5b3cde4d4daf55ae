"""What a service manager hears of a running server, on a real socket."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.serving import serving

from embank.bank import Bank
from embank.errors import ModelNotFound, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.serving import Served

_EVERY_S = 0.02


class Manager:
    """Stands for systemd: listens to its socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.path = path
        self.heard: list[str] = []

    def hear(self, wait_s: float) -> list[str]:
        """What comes next, as lines; none where nothing comes."""
        self._socket.settimeout(wait_s)
        try:
            lines = self._socket.recv(4096).decode().splitlines()
        except TimeoutError:
            return []
        self.heard += lines
        return lines

    def wait_for(self, line: str) -> None:
        until = time.monotonic() + 30
        while line not in self.hear(1):
            assert time.monotonic() < until, f"{line} did not come, only {self.heard[-5:]}"

    def forget(self) -> None:
        """Take what lies there."""
        while self.hear(_EVERY_S):
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(made.path))
    monkeypatch.setenv("WATCHDOG_USEC", str(int(_EVERY_S * 2e6)))
    yield made
    made.close()


def test_it_is_ready_alive_while_loop_and_engine_answer_and_stopping(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "a.bank") as served:
        manager.wait_for("READY=1")
        manager.wait_for("WATCHDOG=1")
        assert any(line.startswith(f"STATUS=serving at {served.url}, ") for line in manager.heard)
        _hang(manager, served, monkeypatch)
        _fail(manager, served, monkeypatch)
        _block(manager, served)
        manager.wait_for("WATCHDOG=1")
    manager.wait_for("STOPPING=1")
    assert manager.heard.count("READY=1") == 1


def _hang(manager: Manager, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine gives no answer: no sign of life, until it does."""
    asked, goes_on = threading.Event(), threading.Event()

    def hang() -> tuple[Any, ...]:
        asked.set()
        goes_on.wait(60)
        return ()

    with monkeypatch.context() as changed:
        changed.setattr(served.bank, "collections", hang)
        assert asked.wait(30)
        manager.forget()
        assert manager.hear(5 * _EVERY_S) == []
        goes_on.set()
        manager.wait_for("WATCHDOG=1")


def _fail(manager: Manager, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine answers with an error: no sign of life, until it answers as it should."""
    twice = threading.Semaphore(0)

    def fail() -> None:
        twice.release()
        raise StorageFailed("the disk does not answer")

    with monkeypatch.context() as changed:
        changed.setattr(served.bank, "collections", fail)
        for _ in range(2):
            assert twice.acquire(timeout=30)
        manager.forget()
        assert manager.hear(5 * _EVERY_S) == []
    manager.wait_for("WATCHDOG=1")


def _block(manager: Manager, served: Served) -> None:
    """The event loop does not come round: no sign of life."""
    blocked, goes_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        goes_on.wait(60)

    loop = served.server.servers[0].get_loop()
    loop.call_soon_threadsafe(block)
    assert blocked.wait(30)
    manager.forget()
    assert manager.hear(5 * _EVERY_S) == []
    goes_on.set()


def test_a_model_that_can_not_be_loaded_is_told_and_no_reason_for_a_restart(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warm(_: Bank) -> None:
        raise ModelNotFound("the weights are elsewhere")

    monkeypatch.setattr(Bank, "warm", warm)
    with serving(tmp_path / "a.bank") as served:
        manager.wait_for("READY=1")
        manager.wait_for("WATCHDOG=1")
        assert served.http.get("/readyz").status_code == 503
    told = [line for line in manager.heard if line.startswith("STATUS=")]
    assert any(line.endswith("not ready: model: the weights are elsewhere") for line in told)

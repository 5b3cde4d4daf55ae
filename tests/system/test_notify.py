from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embank.system.notify import ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(10)
        yield made


def test_lines_come_as_one_datagram(listening: socket.socket) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": listening.getsockname()})
    assert manager.listens
    assert manager.alive_every_s is None
    assert manager.tell("READY=1", "STATUS=one\ntwo")
    assert listening.recv(4096) == b"READY=1\nSTATUS=one two"


def test_abstract_sockets_are_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the system chooses an abstract name
        listening.settimeout(10)
        name = listening.getsockname()[1:].decode()
        assert ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).tell("WATCHDOG=1")
        assert listening.recv(4096) == b"WATCHDOG=1"


def test_without_a_manager_nothing_is_sent() -> None:
    manager = ServiceManager({})
    assert not manager.listens
    assert not manager.tell("READY=1")


def test_a_manager_that_is_gone_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")})
    with caplog.at_level(logging.WARNING):
        assert [manager.tell("READY=1"), manager.tell("WATCHDOG=1")] == [False, False]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("given", "every_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_often_the_manager_wants_to_hear(given: dict[str, str], every_s: float | None) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/x", **given}).alive_every_s == every_s


def test_what_is_no_unix_socket_is_left_alone() -> None:
    assert not ServiceManager({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1"}).listens

"""The kernel's word: reading PSI, and the protocol by which a service manager says what to watch."""

from __future__ import annotations

import base64
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.memory.conftest import Govern
from tests.memory.machine import MB, Cache, Machine, StillClock
from tests.waiting import until

from embank.events.kinds import PressureReported
from embank.events.stream import Stream
from embank.memory.pressure import PressureWatch, StallReader, watch

TOLD = "some avg10=1.50 avg60=0.25 avg300=0.10 total=2500000\nfull avg10=0.75 avg60=0.00 avg300=0.00 total=100\n"

# --- reading --------------------------------------------------------------------------------------------------------


def tree(tmp_path: Path, *, group: str | None = None, machine: str | None = None) -> StallReader:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    folder = cgroup / "app"
    folder.mkdir(parents=True)
    (folder / "memory.stat").write_text("anon 0\n")
    own = proc / str(os.getpid())
    own.mkdir(parents=True)
    (own / "cgroup").write_text("0::/app\n")
    (proc / "pressure").mkdir()
    if group is not None:
        (folder / "memory.pressure").write_text(group)
    if machine is not None:
        (proc / "pressure" / "memory").write_text(machine)
    return StallReader(proc=proc, cgroup=cgroup)


def test_the_groups_pressure_comes_before_the_machines(tmp_path: Path) -> None:
    stall = tree(tmp_path, group=TOLD, machine=TOLD.replace("1.50", "9.00")).read()
    assert stall is not None
    assert (stall.scope, stall.some10_pct, stall.full10_pct, stall.total_s) == ("cgroup", 1.5, 0.75, 2.5)


def test_without_a_groups_it_is_the_machines(tmp_path: Path) -> None:
    stall = tree(tmp_path, machine=TOLD).read()
    assert stall is not None
    assert (stall.scope, stall.some60_pct) == ("machine", 0.25)


@pytest.mark.parametrize("told", [None, "", "nonsense\n", "some avg10=x\n", "full avg10=1 avg60=1 avg300=1 total=1\n"])
def test_where_the_kernel_tells_nothing_that_can_be_read_there_is_none(tmp_path: Path, told: str | None) -> None:
    assert tree(tmp_path, machine=told).read() is None


def test_a_snapshot_says_what_is_not_to_be_had(machine: Machine, govern: Govern, tmp_path: Path) -> None:
    governor = govern()
    state = governor.snapshot()
    assert (state.cgroup_bytes, state.cgroup_limit_bytes) == (None, None)
    assert state.monitor is None
    assert isinstance(state.trim_support, str)


# --- the protocol ---------------------------------------------------------------------------------------------------


class Ear:
    """Counts what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.fails = False

    def hear(self, kind: str) -> None:
        self.heard.append(kind)
        if self.fails:
            raise RuntimeError("no")


def environ(path: Path | str, write: bytes | None = None) -> dict[str, str]:
    given = {"MEMORY_PRESSURE_WATCH": str(path)}
    return given if write is None else {**given, "MEMORY_PRESSURE_WRITE": base64.b64encode(write).decode()}


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        yield path, server


def test_a_fifo_that_is_written_to_is_heard_each_time(fifo: Path) -> None:
    ear = Ear()
    watched = watch(environ(fifo), ear.hear)
    assert watched is not None
    with fifo.open("wb", buffering=0) as writer:
        for count in range(1, 4):
            writer.write(b"x" * 10_000)
            until(lambda count=count: len(ear.heard) >= count)  # type: ignore[misc]
    assert set(ear.heard) == {"fifo"}
    assert watched.running, "the writer may come again"
    watched.close()
    watched.close()
    assert not watched.running


def test_a_socket_is_told_what_the_manager_wants_and_then_heard(listening: tuple[Path, socket.socket]) -> None:
    path, server = listening
    ear = Ear()
    watched = watch(environ(path, b"some 200000 2000000\x00"), ear.hear)
    assert watched is not None
    peer, _ = server.accept()
    with peer:
        assert peer.recv(100) == b"some 200000 2000000\x00"
        peer.sendall(b"!")
        until(lambda: ear.heard == ["socket"])
    until(lambda: not watched.running)  # the other side is gone: nothing is left to listen to
    watched.close()


def test_the_fifo_is_written_to_first_too(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    told = environ(fifo, b"some 1 2")
    ear = Ear()
    watched = watch(told, ear.hear)
    assert watched is not None
    until(lambda: ear.heard == ["fifo"])  # what it wrote itself is not told from a report: one look too many
    watched.close()
    os.close(reader)


def test_a_pressure_file_is_armed_with_what_is_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain file stands in for the kernel's: it can be armed, and only the kernel could report on it."""
    file = tmp_path / "memory.pressure"
    file.write_bytes(b"")
    wanted: list[int] = []
    real = select.poll

    class Poll:
        def __init__(self) -> None:
            self.inner = real()

        def register(self, fd: int, events: int) -> None:
            wanted.append(events)
            if events == select.POLLIN:  # a plain file is always ready, which the kernel's is not
                self.inner.register(fd, events)

        def poll(self) -> list[tuple[int, int]]:
            return self.inner.poll()

    monkeypatch.setattr(select, "poll", Poll)
    watched = watch(environ(file, b"some 150000 2000000"), Ear().hear)
    assert watched is not None
    until(lambda: len(wanted) == 2)
    assert (watched.kind, wanted[0]) == ("psi", select.POLLPRI)
    assert file.read_bytes() == b"some 150000 2000000"
    watched.close()


def test_a_real_trigger_of_the_kernel_can_be_armed(tmp_path: Path) -> None:
    path = Path("/proc/pressure/memory")
    try:
        with path.open("r+b", buffering=0) as file:
            file.write(b"some 500000 2000000\x00")
    except OSError as error:
        pytest.skip(f"no trigger can be set here: {error}")
    watched = watch(environ(path, b"some 500000 2000000\x00"), Ear().hear)
    assert watched is not None
    assert watched.running
    watched.close()


@pytest.mark.parametrize("given", [{}, {"MEMORY_PRESSURE_WATCH": ""}, {"MEMORY_PRESSURE_WATCH": "/dev/null"}])
def test_nothing_is_watched_where_that_is_not_wanted(given: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    assert watch(given, Ear().hear) is None
    assert caplog.text == ""


def test_what_cannot_be_watched_is_said_and_stops_nothing(
    tmp_path: Path, fifo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for given in (
        environ(tmp_path / "missing"),
        environ(tmp_path),
        {**environ(fifo), "MEMORY_PRESSURE_WRITE": "not base64!"},
    ):
        assert watch(given, Ear().hear) is None
    assert caplog.text.count("memory pressure is not watched") == 3


def test_a_listener_that_fails_hears_the_next_report(fifo: Path) -> None:
    ear = Ear()
    ear.fails = True
    watched = watch(environ(fifo), ear.hear)
    assert watched is not None
    with fifo.open("wb", buffering=0) as writer:
        for count in (1, 2):
            writer.write(b"x")
            until(lambda count=count: len(ear.heard) >= count)  # type: ignore[misc]
    watched.close()


def test_the_thread_ends_with_its_listener(fifo: Path) -> None:
    watched = watch(environ(fifo), Ear().hear)
    assert isinstance(watched, PressureWatch)
    with fifo.open("wb", buffering=0) as writer:
        writer.write(b"x")
        until(lambda: not watched.running)
    watched.close()


# --- what the governor makes of it ----------------------------------------------------------------------------------


def test_a_report_makes_the_governor_look_and_release_at_once(govern: Govern, machine: Machine, fifo: Path) -> None:
    cache = Cache(machine, "cache", 40 * MB)
    with Stream() as stream, stream.subscribe(kinds=[PressureReported]) as events:
        governor = govern(stream=stream, check_interval_s=3600, kernel_release=0.25)
        governor.register(cache)
        watched = watch(environ(fifo), governor.report_pressure)
        assert watched is not None
        with fifo.open("wb", buffering=0) as writer:
            writer.write(b"x")
            (told,) = events.drain(wait_s=30)
        watched.close()
    assert isinstance(told, PressureReported)
    assert (told.source, told.before_bytes, told.freed_bytes) == ("fifo", 40 * MB, 10 * MB)
    assert cache.bytes == 30 * MB
    assert governor.snapshot().last_actions[-1].why == "pressure reported by fifo"


def test_a_burst_of_reports_counts_once_in_a_cool_down(govern: Govern, machine: Machine, clock: StillClock) -> None:
    cache = Cache(machine, "cache", 40 * MB)
    governor = govern(cooldown_s=5)
    governor.register(cache)
    freed = [governor.report_pressure("psi") for _ in range(10)]
    clock.sleep(5)
    freed.append(governor.report_pressure("psi"))
    assert freed == [10 * MB, *[0] * 9, 7_500_000]


def test_reports_from_several_threads_at_once_do_no_harm(govern: Govern, machine: Machine) -> None:
    governor = govern()
    governor.register(Cache(machine, "cache", 40 * MB))
    threads = [threading.Thread(target=governor.report_pressure, args=("psi",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert machine.held_bytes >= 4 * MB

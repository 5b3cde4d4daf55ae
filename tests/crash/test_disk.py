"""What is left of files after a power cut, as the shim and `disk` have it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.crash import shim
from tests.crash.machine import Machine

# From Python 3.12 on a fork beside other threads is warned of; these children call the system alone.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path / "root", old={"old/file": b"0123456789"})


def sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_writes_are_there_once_they_are_synchronised(machine: Machine) -> None:
    def work() -> None:
        descriptor = os.open("old/file", os.O_RDWR)
        os.pwrite(descriptor, b"ab", 2)
        os.pwritev(descriptor, [b"c", b"d"], 12)
        os.fdatasync(descriptor)
        os.pwrite(descriptor, b"lost", 0)
        os.ftruncate(descriptor, 3)

    assert machine.run(work) == 0
    assert (machine.root / "old" / "file").read_bytes() == b"los"
    assert machine.after_a_cut() == {"old/file": b"01ab456789\0\0cd"}


def test_a_new_file_needs_its_folder_synchronised(machine: Machine) -> None:
    def work() -> None:
        for name in ("kept", "lost"):
            with Path(name).open("wb") as file:
                file.write(b"content")
                file.flush()
                os.fsync(file.fileno())
            if name == "kept":
                sync(".")
        Path("empty").touch()

    machine.run(work)
    assert machine.after_a_cut() == {"old/file": b"0123456789", "kept": b"content"}


def test_a_rename_is_undone_without_its_folder(machine: Machine) -> None:
    def work() -> None:
        with Path("old/new").open("wb") as file:
            file.write(b"new")
            file.flush()
            os.fsync(file.fileno())
        sync("old")
        os.replace("old/new", "old/file")  # noqa: PTH105 -- the system call by its name

    machine.run(work)
    assert machine.after_a_cut() == {"old/file": b"0123456789", "old/new": b"new"}
    machine.run(lambda: sync("old"))
    machine.root.parent.joinpath("after").rename(machine.root.parent / "before")
    assert machine.after_a_cut() == {"old/file": b"new"}


def test_what_was_removed_comes_back_without_its_folder(machine: Machine) -> None:
    def work() -> None:
        Path("old/file").unlink()
        Path("old").rmdir()

    machine.run(work)
    assert machine.after_a_cut() == {"old/file": b"0123456789"}


def test_a_kill_in_the_middle_of_a_write(machine: Machine) -> None:
    def work() -> None:
        descriptor = os.open("old/file", os.O_RDWR)
        os.pwrite(descriptor, b"ab", 0)
        os.pwrite(descriptor, b"abcdef", 2)
        os.pwrite(descriptor, b"never", 0)

    assert machine.run(work, kill_in=2, part=shim.HALF) == -9
    assert machine.killed == "write folder"
    assert (machine.root / "old" / "file").read_bytes() == b"ababc56789"


def test_a_disk_that_ignores_synchronisation(machine: Machine) -> None:
    def work() -> None:
        descriptor = os.open("old/file", os.O_RDWR)
        os.pwrite(descriptor, b"ab", 0)
        os.fsync(descriptor)

    machine.run(work, syncs=False)
    assert machine.after_a_cut() == {"old/file": b"0123456789"}


def test_any_of_the_writes_since_may_be_there(machine: Machine) -> None:
    def work() -> None:
        descriptor = os.open("old/file", os.O_RDWR)
        for number in range(10):
            os.pwrite(descriptor, b"x", number)

    machine.run(work)
    seen = set()
    for number in range(20):
        target = machine.root.parent / f"after-{number}"
        machine.disk.cut(target, random.Random(number), "first" if number % 2 else "some")
        content = (target / "old" / "file").read_bytes()
        assert all(each in (b"x"[0], b"0"[0] + place) for place, each in enumerate(content))
        seen.add(content)
        if number % 2:
            assert content == b"x" * content.count(b"x") + b"0123456789"[content.count(b"x") :]
    assert len(seen) > 10

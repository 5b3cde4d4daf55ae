"""A folder, and processes that work in it until they are killed or the power is cut."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.crash import processes, shim
from tests.crash.disk import Disk


class Machine:
    """A folder, and processes that work in it and are watched."""

    def __init__(self, library: Path, root: Path, *, old: dict[str, bytes]) -> None:
        """`root` is made, with the files `old` in it; beside it lies what the machine needs itself."""
        self.root, self._folder, self._library = root, root.parent, library
        root.mkdir()
        for name, content in old.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(content)
        self.disk = Disk(self.root)
        self.killed: str | None = None
        self.done: list[shim.Record] = []
        """What the last process did."""

    def run(self, work: Callable[[], None], *, kill_in: int = 0, part: int = shim.BEFORE, syncs: bool = True) -> int:
        """How a process that did `work` in the folder ended."""
        journal = self._folder / "journal"
        journal.write_bytes(b"")

        def watched(_: int) -> None:
            os.chdir(self.root)
            watching = shim.Shim(
                self._library, self.root, journal=os.open(journal, os.O_WRONLY | os.O_APPEND), writes=True, syncs=syncs
            )
            if kill_in:
                watching.kill_in(kill_in, part)
            work()

        pid, reading = processes.forked(watched, errors=self._folder / "errors")
        os.close(reading)
        code = processes.ended(pid)
        assert code in (0, -9), (self._folder / "errors").read_text()
        self.done = list(shim.records(journal))
        self.killed = self.disk.read(journal)
        assert self.disk.is_as(self.root) is None
        return code

    def cut(self) -> Path:
        """What is there where nothing is kept that was not synchronised."""
        target = self._folder / "after"
        self.disk.cut(target, random.Random(0), "none")
        return target

    def after_a_cut(self) -> dict[str, bytes]:
        """All files of that."""
        target = self.cut()
        return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}

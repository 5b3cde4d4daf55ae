"""Rounds of killing a server that concurrent clients write to: what it answered 200 to must be there.

Each client writes documents that are its own, so that the order of what it was answered is the order of what happened.
The server is a forked child; the clients are threads of this process, which are over before it forks again.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.crash import processes, shim
from tests.crash.disk import Disk
from tests.crash.rounds import VERSIONS_A_RUN, Runner
from tests.crash.small import FLAGS, GROUPS, IDS, NAME, Value, current_model, metadata, model, text

import embank
from embank.client.client import Client
from embank.client.outcome import Retries
from embank.client.schemas import JobAnswer
from embank.errors import ServiceUnreachable
from embank.http.server import BankServer

CLIENTS = 4
MOST_OPERATIONS = 500
"""A kill comes at the latest at the so many-th thing that the server does to the disk once clients write."""
LONGEST_S = 20.0
"""So long the clients write at most."""


@dataclass
class Heard:
    """What clients asked for and were answered, in one order; see `workload` for the lines."""

    first_version: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._versions = itertools.count(self.first_version + 1)

    def version(self) -> int:
        with self._lock:
            return next(self._versions)

    def begin(self, *act: Any) -> int:
        """Tell of an act before it is asked for; its number."""
        with self._lock:
            number = next(self._numbers)
            self.lines.append({"do": number, "act": list(act)})
        return number

    def end(self, number: int) -> None:
        """The act was acknowledged."""
        with self._lock:
            self.lines.append({"did": number, "operations": 0, "seconds": 0.0})

    @contextmanager
    def act(self, *act: Any) -> Iterator[None]:
        """An act that is acknowledged when the block ends; one that raises stays open."""
        number = self.begin(*act)
        yield
        self.end(number)


class Writer(threading.Thread):
    """One client: it writes until the server is gone. Every number-th document is its own."""

    def __init__(self, url: str, number: int, heard: Heard, rng: random.Random) -> None:
        super().__init__(name=f"client-{number}")
        self._url = url
        self._number = number
        self._heard = heard
        self._rng = rng
        self._ids = [f"d{each}" for each in range(IDS) if each % CLIENTS == number]
        self._groups = [each for each in range(GROUPS) if each % CLIENTS == number]
        self._mine: dict[str, Value] = {}
        """What is certain to be there."""

    def run(self) -> None:
        acts: list[Callable[[Client], None]] = [self._upsert, self._relabel, self._remove, self._read, self._import]
        weights = [10, 4, 4, 4, 1]
        if self._number == 0:
            acts += [self._purge, self._compact, self._backup]
            weights += [2, 1, 1]
        try:
            with Client(self._url, retries=Retries(most=0), timeout_s=60) as bank:
                self._upsert(bank)
                while True:
                    self._rng.choices(acts, weights)[0](bank)
        except ServiceUnreachable:
            pass
        except Exception as error:  # noqa: BLE001 -- whatever it is, the round has failed with it
            self._heard.problems.append(f"failed in {self.name}: {type(error).__name__}: {error}")

    def _upsert(self, bank: Client) -> None:
        version = self._heard.version()
        names = dict.fromkeys(self._rng.sample(self._ids, 5), version)
        with self._heard.act("upsert", names):
            bank.upsert(NAME, [_document(name, version, version) for name in names])
        self._mine.update(dict.fromkeys(names, (version, version)))

    def _relabel(self, bank: Client) -> None:
        label = self._heard.version()
        chosen = self._rng.sample(sorted(self._mine), min(3, len(self._mine)))
        changed = {name: (self._mine[name][0], label) for name in chosen}
        with self._heard.act("relabel", changed):
            if changed:
                bank.upsert(NAME, [_document(name, version, label) for name, (version, _) in changed.items()])
        self._mine.update(changed)

    def _remove(self, bank: Client) -> None:
        names = self._rng.sample(self._ids, 4)
        with self._heard.act("delete", names):
            bank.delete(NAME, names)
        for name in names:
            self._mine.pop(name, None)

    def _read(self, bank: Client) -> None:
        """What was acknowledged is there at once."""
        names = self._rng.sample(sorted(self._mine), min(5, len(self._mine)))
        if names:
            found = {each.id: (each.metadata["version"], each.metadata["label"]) for each in _got(bank, names)}
            self._heard.problems += [
                f"lost: {name} was acknowledged as {self._mine[name]} and is read as {found.get(name)}"
                for name in names
                if found.get(name) != self._mine[name]
            ]

    def _import(self, bank: Client) -> None:
        version = self._heard.version()
        names = dict.fromkeys(self._rng.sample(self._ids, 20), version)
        lines = b"".join(json.dumps(_document(name, version, version)).encode() + b"\n" for name in names)
        with self._heard.act("ingest", names):
            _wait_for(bank, bank.import_lines(NAME, lines))
        self._mine.update(dict.fromkeys(names, (version, version)))

    def _purge(self, bank: Client) -> None:
        group = self._rng.choice(self._groups)
        with self._heard.act("purge", group):
            _wait_for(bank, bank.purge(NAME, where={"group": group}))
        self._mine = {name: value for name, value in self._mine.items() if int(name[1:]) % GROUPS != group}

    def _compact(self, bank: Client) -> None:
        with self._heard.act("compact"):
            _wait_for(bank, bank.compact(NAME))

    def _backup(self, bank: Client) -> None:
        name = f"copy-{self._heard.version()}"
        with self._heard.act("backup", name):
            _wait_for(bank, bank.backup(name))


class ServedRunner(Runner):
    """Kills a server, where `Runner` kills a program that has the bank open itself."""

    def _killed(self, disk: Disk | None) -> list[str]:
        rng = self._rng
        self._runs += 1
        by_time = self._library is None or rng.random() < 0.25
        kill_in = None if by_time else rng.randint(1, MOST_OPERATIONS)
        while_opening = rng.random() < 0.1
        # All is drawn here: how far the server comes must not decide what later rounds draw.
        kill_after_s = rng.uniform(0, 1.0) if by_time else None
        seeds = [rng.getrandbits(32) for _ in range(CLIENTS)]
        heard = Heard(self._runs * VERSIONS_A_RUN)
        self._journal.write_bytes(b"")
        part = rng.choice((shim.BEFORE, shim.BEHIND, shim.HALF))
        pid, reading = processes.forked(
            lambda told: self._serve(told, kill_in, part, while_opening=while_opening), errors=self._errors
        )
        try:
            self._write_until_the_end(pid, reading, heard, seeds, kill_after_s=kill_after_s)
        except processes.Hung:
            processes.kill(pid)
            heard.problems.append("hung: it does not listen")
        finally:
            os.close(reading)
        return heard.problems + self._ended(processes.ended(pid), heard.lines, disk, "serve")

    def _write_until_the_end(
        self, pid: int, reading: int, heard: Heard, seeds: list[int], *, kill_after_s: float | None
    ) -> None:
        opening = heard.begin("open")
        url = next(processes.lines(reading), {}).get("url")
        if url is None:
            return  # its end came before it listened, and the act stays open
        heard.end(opening)
        writers = [Writer(url, number, heard, random.Random(seed)) for number, seed in enumerate(seeds)]
        for each in writers:
            each.start()
        if kill_after_s is not None:
            processes.pause(kill_after_s)
            processes.kill(pid)
        elif not select.select([reading], [], [], LONGEST_S)[0]:  # nothing further is said: this is its end
            processes.kill(pid)
        for each in writers:
            each.join()

    def _serve(self, told: int, kill_in: int | None, part: int, *, while_opening: bool) -> None:
        """In the child."""
        watching = self._watch()
        if watching is not None and kill_in is not None and while_opening:
            watching.kill_in(kill_in, part)

        def ready(url: str) -> None:
            if watching is not None and kill_in is not None and not while_opening:
                watching.kill_in(kill_in, part)
            os.write(told, json.dumps({"url": url}).encode() + b"\n")

        flags = {**FLAGS, "http.port": 0, "http.backups": str(self._root / "backups")}
        bank = self._root / "bank"
        with embank.open(bank, model=model(current_model(bank)), flags=flags) as held:
            BankServer(held, on_ready=ready).serve_until_stopped()


def _document(name: str, version: int, label: int) -> dict[str, Any]:
    return {"id": name, "text": text(name, version), "metadata": metadata(name, label, version)}


def _got(bank: Client, names: list[str]) -> list[Any]:
    return bank.get(NAME, names).documents


def _wait_for(bank: Client, job: JobAnswer) -> None:
    while job.state in ("waiting", "running"):
        job = bank.job(job.id, wait_s=30)
    if job.state != "done":
        raise AssertionError(f"the job {job.kind} is {job.state}: {job.error}")

"""What a process does to a bank until it is killed: it tells every act before, and acknowledges it behind.

Lines, each a JSON object: {"do": NUMBER, "act": [KIND, …]}; {"part": NUMBER, "ids": […]} for what is acknowledged of an
act under way; behind it {"did": NUMBER, "operations": N, "seconds": S}, or {"failed": NUMBER, …}. `Witness` reads them.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.crash.shim import Shim
from tests.crash.small import GROUPS, IDS, NAME, current_model, metadata, model, opened, text

from embank.bank import Bank, LocalCollection
from embank.errors import EmbankError
from embank.records import Document
from embank.source.report import SourceReport
from embank.system.background import Background

QUICK = ("upsert", "upsert", "relabel", "delete")
LONG = ("compact", "snapshot", "lexical", "backup", "reembed")
"""Acts that change no document, beside which another thread may write."""

ACTS = ("open", "ingest", "upsert", "relabel", "delete", "purge", *LONG, "drop", "close")
BEFOREHAND = {"compact": "delete", "snapshot": "ingest", "lexical": "upsert"}
"""So that the act has something to do."""


@dataclass(frozen=True)
class Fault:
    """From its operation `first` on, so many operations of `kinds` fail with `error` (an errno)."""

    first: int
    count: int
    error: int
    kinds: list[int]


@dataclass(frozen=True)
class Orders:
    """What a process is to do. `kill_in`: at which operation of the act `target` it is killed; `None`: not by itself.

    With a `fault` the act may fail in an error that is one of Embank's own; all acts behind it must not.
    """

    bank: Path
    backups: Path
    seed: int
    first_version: int
    target: str
    kill_in: int | None
    part: int
    more: int = 3
    fault: Fault | None = None


class Numbered:
    """A source of the documents `wanted`, name -> version."""

    root = "test:numbered"
    bytes_total = None

    def __init__(self, wanted: dict[str, int]) -> None:
        self.report = SourceReport()
        self._wanted = wanted

    def documents(self) -> Iterator[Document]:
        for name, version in self._wanted.items():
            yield Document(name, text(name, version), metadata(name, version, version), name)


class Workload:
    """The acts of one process. `told` is a descriptor for the lines."""

    def __init__(self, orders: Orders, shim: Shim | None, told: int) -> None:
        self._orders = orders
        self._shim = shim
        self._told = told
        self._rng = random.Random(orders.seed)
        self._version = orders.first_version
        self._number = 0
        self._lock = threading.Lock()
        self._bank: Bank | None = None
        self._is_done = False

    def run(self) -> None:
        rng, target = self._rng, self._orders.target
        if target == "snapshot":  # else a thread has done it beforehand
            Background.wake = lambda self: None  # type: ignore[method-assign]
        self._do("open")
        if target != "ingest" and self._kept.stats() is None:
            self._do("ingest")
        if target in BEFOREHAND:
            self._do(BEFOREHAND[target])
        for _ in range(rng.randint(0, 2)):
            self._do(rng.choice(QUICK))
        if target not in ("open", "close"):
            self._do(target, beside=target in LONG and rng.random() < 0.5 and self._orders.fault is None)
            if target == "drop":
                self._do("ingest")
            for _ in range(self._orders.more):
                # Seldom dropped: else no bank would live to see much.
                self._do(rng.choice(ACTS[1:-2]))
        self._do("close")

    def _do(self, kind: str, *, beside: bool = False) -> None:
        """Do one act; where it is the target, the operation of the kill is counted from here on."""
        is_target, self._is_done = kind == self._orders.target and not self._is_done, kind == self._orders.target
        if is_target and self._shim is not None and self._orders.kill_in is not None:
            self._shim.kill_in(self._orders.kill_in, self._orders.part)
        if is_target and self._orders.fault is not None:
            self._do_with(self._orders.fault, kind)
        elif beside:
            self._do_beside(kind)
        else:
            getattr(self, f"_{kind}")()

    def _do_with(self, fault: Fault, kind: str) -> None:
        """Do an act while the disk fails. What fails with it must say so in words of Embank's own."""
        assert self._shim is not None
        self._shim.fail(fault.first, fault.first + fault.count - 1, fault.error, fault.kinds)
        try:
            getattr(self, f"_{kind}")()
        except EmbankError as error:
            self._say({"failed": self._number, "error": type(error).__name__, "message": str(error)})
            self._shim.fail(0, 0, 0, [])
            if kind == "open":
                self._do("open")
        self._shim.fail(0, 0, 0, [])

    def _do_beside(self, kind: str) -> None:
        done = threading.Event()
        writer = threading.Thread(target=self._keep_writing, args=(done, random.Random(self._rng.random())))
        writer.start()
        try:
            getattr(self, f"_{kind}")()
        finally:
            done.set()
            writer.join()

    def _keep_writing(self, done: threading.Event, rng: random.Random) -> None:
        while not done.wait(0.001):
            self._upsert(rng) if rng.random() < 0.7 else self._delete(rng)

    # --- acts ---

    def _open(self) -> None:
        with self._telling("open"):
            self._bank = opened(self._orders.bank)

    def _close(self) -> None:
        with self._telling("close"):
            self._opened.close()

    def _ingest(self) -> None:
        version = self._next()
        names = {f"d{number}": version for number in self._rng.sample(range(IDS), 40)}
        with self._telling("ingest", names) as act:
            self._kept.index(Numbered(names), on_commit=lambda ids: self._say({"part": act.number, "ids": list(ids)}))

    def _upsert(self, rng: random.Random | None = None) -> None:
        version = self._next()
        names = {f"d{number}": version for number in (rng or self._rng).sample(range(IDS), 5)}
        listed = [
            {"id": each, "text": text(each, version), "metadata": metadata(each, version, version)} for each in names
        ]
        with self._telling("upsert", names):
            self._kept.add(listed)

    def _relabel(self) -> None:
        found = self._kept.list(limit=3, after=f"d{self._rng.randrange(IDS)}")
        label = self._next()
        changed = {each.id: (each.metadata["version"], label) for each in found}
        listed = [{"id": each.id, "text": each.text, "metadata": {**each.metadata, "label": label}} for each in found]
        with self._telling("relabel", changed):
            self._kept.add(listed)

    def _delete(self, rng: random.Random | None = None) -> None:
        names = [f"d{number}" for number in (rng or self._rng).sample(range(IDS), 8)]
        with self._telling("delete", names):
            self._kept.delete(names)

    def _purge(self) -> None:
        group = self._rng.randrange(GROUPS)
        with self._telling("purge", group):
            self._kept.purge(where={"group": group})

    def _drop(self) -> None:
        with self._telling("drop"):
            self._opened.drop(NAME)

    def _compact(self) -> None:
        if self._kept.reembedding() is not None:
            self._reembed()  # it has to be finished first
        with self._telling("compact"):
            self._kept.compact()

    def _snapshot(self) -> None:
        with self._telling("snapshot"):
            self._kept.vector_index.refresh()

    def _lexical(self) -> None:
        with self._telling("lexical"):
            self._kept.search("silt", mode="lexical", k=3)

    def _backup(self) -> None:
        target = self._orders.backups / f"copy-{self._next()}"
        with self._telling("backup", target.name):
            self._opened.backup(target)

    def _reembed(self) -> None:
        under_way = self._kept.reembedding()
        now = current_model(self._orders.bank)
        name = (
            ("beta" if now == "alpha" else "alpha")
            if under_way is None
            else under_way.space.fingerprint.partition(":")[0]
        )
        with self._telling("reembed", name):
            self._kept.reembed(model(name))

    # --- inside ---

    @property
    def _opened(self) -> Bank:
        assert self._bank is not None
        return self._bank

    @property
    def _kept(self) -> LocalCollection:
        return self._opened.collection(NAME)

    def _next(self) -> int:
        with self._lock:
            self._version += 1
            return self._version

    def _telling(self, kind: str, *given: Any) -> Told:
        with self._lock:
            self._number += 1
            return Told(self, self._number, [kind, *given])

    def _say(self, what: object) -> None:
        """One line, at once, in one write."""
        with self._lock:
            os.write(self._told, json.dumps(what).encode() + b"\n")

    def operations(self) -> int:
        return 0 if self._shim is None else self._shim.operations()


@dataclass
class Told:
    """An act: told before, acknowledged behind unless it raised."""

    workload: Workload
    number: int
    act: list[Any]
    operations: int = 0
    started: float = 0.0

    def __enter__(self) -> Self:
        self.workload._say({"do": self.number, "act": self.act})
        self.operations, self.started = self.workload.operations(), time.monotonic()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            count = self.workload.operations() - self.operations
            seconds = time.monotonic() - self.started
            self.workload._say({"did": self.number, "operations": count, "seconds": seconds})

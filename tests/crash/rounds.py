"""Rounds of killing a process that works on a bank, and of looking at what it left.

A bank lives over many rounds, so that it survives its own history. After a power cut it is what a disk may hold that
kept only what was synchronised.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from tests.crash import processes, shim
from tests.crash.disk import Disk, Fate
from tests.crash.inspection import inspected, inspected_copy
from tests.crash.small import make_steps_small
from tests.crash.witness import Witness
from tests.crash.workload import ACTS, Fault, Orders, Workload

FAULTS: tuple[tuple[int, list[int]], ...] = (
    (errno.ENOSPC, [shim.CREATE, shim.WRITE, shim.MKDIR]),
    (errno.EIO, [shim.WRITE]),
    (errno.EIO, [shim.SYNC]),
)
FATES: tuple[Fate, ...] = ("none", "none", "first", "some", "some", "all")
VERSIONS_A_RUN = 1_000_000


@dataclass
class Summary:
    """What came of it."""

    seed: int
    rounds: int = 0
    kills: int = 0
    power_cuts: int = 0
    banks: int = 0
    acknowledged: int = 0
    lost: int = 0
    duplicates: int = 0
    half_written: int = 0
    came_back: int = 0
    failed_openings: int = 0
    damaged: int = 0
    other: int = 0
    verified: int = 0
    backups: int = 0
    seconds: float = 0.0
    interrupted: Counter[str] = field(default_factory=Counter)
    at: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**plain, "interrupted": dict(self.interrupted), "at": dict(self.at), "clean": self.clean}

    def count(self, problem: str) -> None:
        """Put a problem into its drawer."""
        kind = problem.partition(":")[0]
        drawers = {
            "lost": "lost",
            "duplicate": "duplicates",
            "half-written": "half_written",
            "came back": "came_back",
            "failed opening": "failed_openings",
            "damaged": "damaged",
        }
        name = drawers.get(kind, "other")
        setattr(self, name, getattr(self, name) + 1)


@dataclass(frozen=True)
class Plan:
    """What is to be done. Without `syncs` the disk ignores every synchronisation: then there must be losses."""

    folder: Path
    seed: int
    rounds: int
    power_cut: bool = False
    faults: bool = False
    syncs: bool = True
    rounds_a_bank: int = 100
    verify_every: int = 10
    most_failures: int = 3


class Runner:
    """Runs the rounds. For one thread of a process that has no others, since it forks."""

    def __init__(self, plan: Plan, *, library: Path | None) -> None:
        """`library` is the compiled shim; without it, moments of kills are a matter of time alone."""
        make_steps_small()
        self.summary = Summary(plan.seed)
        self._plan = plan
        self._library = library
        self._rng = random.Random(plan.seed)
        self._root = plan.folder / "disk"
        self._errors = plan.folder / "errors.txt"
        self._journal = plan.folder / "journal"
        self._witness = Witness()
        self._targets: list[str] = []
        self._runs = 0
        self._lived = 0

    def run(self, on_round: Callable[[Summary], None] = lambda _: None) -> Summary:
        self._warm()
        started = time.monotonic()
        for number in range(self._plan.rounds):
            if self._lived == 0:
                self._new_bank()
            try:
                problems = self._round(thorough=self._lived % self._plan.verify_every == 0)
            except KeyboardInterrupt:  # what was found until then is told
                break
            self.summary.rounds += 1
            if problems:
                self._failed(number, problems)
            self._lived = 0 if problems or self._lived + 1 >= self._plan.rounds_a_bank else self._lived + 1
            self.summary.seconds = time.monotonic() - started
            on_round(self.summary)
            if len(self.summary.failures) >= self._plan.most_failures:
                break
        return self.summary

    # --- one round ---

    def _round(self, *, thorough: bool) -> list[str]:
        problems: list[str] = []
        if self._plan.power_cut:
            disk = Disk(self._root)
            for _ in range(self._rng.randint(1, 3)):
                problems += self._killed(disk)
            missed = disk.is_as(self._root)
            if missed is not None:
                return [*problems, f"the journal is not all: {missed}"]
            self._cut(disk)
        else:
            problems += self._killed(None)
        return problems or self._look(thorough=thorough)

    def _killed(self, disk: Disk | None) -> list[str]:
        """Let a process work, and kill it; problems where it ended by itself in an error."""
        rng, target = self._rng, self._target()
        self._runs += 1
        faults = self._plan.faults
        by_time = not faults and (self._library is None or (disk is None and rng.random() < 0.25))
        operations, seconds = self._usual(target)
        orders = Orders(
            bank=self._root / "bank",
            backups=self._root / "backups",
            seed=rng.getrandbits(32),
            first_version=self._runs * VERSIONS_A_RUN,
            target=target,
            kill_in=None
            if by_time or faults
            else rng.randint(1, operations + operations // 8 + 1)
            if operations
            else None,
            part=rng.choice((shim.BEFORE, shim.BEHIND, shim.HALF)),
            fault=self._fault(operations) if faults else None,
        )
        self._journal.write_bytes(b"")
        pid, reading = processes.forked(lambda told: self._work(orders, told), errors=self._errors)
        told: list[dict[str, Any]] = []
        try:
            for line in processes.lines(reading):
                told.append(line)
                if by_time and line.get("act", [None])[0] == target:
                    processes.pause(rng.uniform(0, 1.1 * seconds))
                    processes.kill(pid)
        except processes.Hung:
            processes.kill(pid)
            self._witness.read(told)
            processes.ended(pid)
            return [f"hung: {told[-3:]}"]
        finally:
            os.close(reading)
        return self._ended(processes.ended(pid), told, disk, target)

    def _ended(self, code: int, told: list[dict[str, Any]], disk: Disk | None, target: str) -> list[str]:
        """Take in what a process said and how it ended; problems where that was an error."""
        under_way = self._witness.read(told)
        self.summary.acknowledged = self._witness.acknowledged
        killed = self._killed_at() if disk is None else disk.read(self._journal)
        # A system call that the shim traps in a thread with blocked signals ends the process by SIGSYS: once in some
        # hundred runs, as threads end. To the bank that is a kill like any other.
        if code == -signal.SIGSYS:
            killed = "by the shim itself"
        if code in (-signal.SIGKILL, -signal.SIGSYS):
            self.summary.kills += 1
            self.summary.interrupted[under_way[0] if under_way else "between acts"] += 1
            if killed is not None:
                self.summary.at[killed] += 1
        elif code:
            words = "failed opening" if under_way == ["open"] else f"failed in {under_way}"
            return [f"{words}: exit code {code}: {self._errors.read_text(errors='replace')[-3000:]}"]
        else:
            failed, self._witness.failed = self._witness.failed, []
            self.summary.interrupted[f"{target}: {failed[0]['error']}" if failed else "not at all"] += 1
        return []

    def _work(self, orders: Orders, told: int) -> None:
        """In the child."""
        Workload(orders, self._watch(), told).run()

    def _watch(self) -> shim.Shim | None:
        """In the child: have the shim, where there is one, watch it from now on."""
        if self._library is None:
            return None
        journal = os.open(self._journal, os.O_WRONLY | os.O_APPEND)
        power_cut, syncs = self._plan.power_cut, self._plan.syncs
        return shim.Shim(self._library, self._root, journal=journal, writes=power_cut, syncs=syncs)

    def _killed_at(self) -> str | None:
        return next((each.told() for each in shim.records(self._journal) if each.kind == shim.KILLED), None)

    def _cut(self, disk: Disk) -> None:
        self.summary.power_cuts += 1
        after = self._plan.folder / "after"
        disk.cut(after, self._rng, self._rng.choice(FATES))
        shutil.rmtree(self._root)
        after.rename(self._root)
        (self._root / "backups").mkdir(exist_ok=True)

    def _look(self, *, thorough: bool) -> list[str]:
        bank, seed = self._root / "bank", self._rng.getrandbits(32)
        problems = self._look_at_copies()
        answer = processes.asked(partial(inspected, bank, seed=seed, thorough=thorough), errors=self._errors)
        self.summary.verified += thorough
        if "error" in answer:
            return [*problems, f"failed opening: {answer['error']}"]
        found = {name: tuple(value) for name, value in answer["documents"].items()}
        problems += answer["problems"] + self._witness.problems(found)
        self._witness.adopt(found)
        return problems

    def _look_at_copies(self) -> list[str]:
        problems: list[str] = []
        for name, copy in self._witness.copies.items():
            place, scratch = self._root / "backups" / name, self._plan.folder / "restored"
            if not place.exists():
                problems += [f"lost: the backup {name} was acknowledged"] if copy.acknowledged else []
                continue
            self.summary.backups += 1
            restored = self._rng.random() < 0.25
            answer = processes.asked(partial(inspected_copy, place, scratch, restored=restored), errors=self._errors)
            shutil.rmtree(scratch, ignore_errors=True)
            if "error" in answer:
                problems.append(f"damaged: {name}: {answer['error']}")
                continue
            found = {each: tuple(value) for each, value in answer["documents"].items()}
            wrong = [
                each for each in copy.state.keys() | found.keys() if found.get(each) not in copy.state.get(each, {None})
            ]
            problems += answer["problems"] + [f"lost: {name} holds {each} as {found.get(each)}" for each in wrong]
        for place in (self._root / "backups").iterdir():
            shutil.rmtree(place)
        self._witness.copies = {}
        return problems

    # --- inside ---

    def _warm(self) -> None:
        """Import everything here, once, so that it is there in every child."""
        self._new_bank()
        bank, backups = self._root / "bank", self._root / "backups"
        nowhere = os.open(os.devnull, os.O_WRONLY)
        works: list[Callable[[], object]] = [
            Workload(Orders(bank, backups, 0, 0, each, None, 0), None, nowhere).run for each in ("backup", "reembed")
        ]
        works.append(partial(inspected, bank, seed=0, thorough=True))
        processes.warmed(works, errors=self._errors)
        os.close(nowhere)
        self.summary.banks = 0

    def _new_bank(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        (self._root / "backups").mkdir(parents=True)
        self._witness.adopt({})
        self._witness.copies = {}
        self.summary.banks += 1

    def _target(self) -> str:
        """Each act as often as the others."""
        if not self._targets:
            self._targets = list(ACTS)
            self._rng.shuffle(self._targets)
        return self._targets.pop()

    def _fault(self, operations: int) -> Fault:
        """No room, a disk that fails to write, or one that fails to synchronise: once, a few times, or from then on."""
        error, kinds = self._rng.choice(FAULTS)
        return Fault(self._rng.randint(1, max(operations, 1)), self._rng.choice((1, 3, 1_000_000)), error, kinds)

    def _usual(self, target: str) -> tuple[int, float]:
        """The most operations and seconds that the act took of late; 0 where it is to be done for the first time."""
        done = self._witness.done.get(target, [])[-5:]
        return max((each[0] for each in done), default=0), max((each[1] for each in done), default=0.05)

    def _failed(self, number: int, problems: list[str]) -> None:
        for each in problems:
            self.summary.count(each)
        kept = self._plan.folder / f"failed-{number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self._root, kept)
        (kept / "problems.txt").write_text("\n".join(problems))
        self.summary.failures.append(
            {"round": number, "seed": self._plan.seed, "kept": str(kept), "problems": problems}
        )

"""Mixed operations on a bank, one after the other, in a process of its own: `python -m benchmarks.soaking`.

Told by a JSON object (`Plan`) as its only argument. Prints one JSON object a line: reports, and in the end a summary.
What is being done at any moment stands in the first bytes of `plan.now` (see `Now`), for whoever watches from outside.

Covers ingest, update, metadata alone, delete, search (hybrid, dense, lexical, with a filter), get, list, bursts of
questions never asked before (which turn caches over), and letting go of the model and all else that can be earned
again (`bank.release()`) every 200 operations, and compaction every 1,000. Each ingest is followed by the deletion of as
many documents, so that their number is constant. Every answer is checked: a wrong one is a failed operation, and so is
an error.
"""

from __future__ import annotations

import json
import math
import mmap
import random
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embank.events.kinds import CreepSuspected, Event, LeakAttributed, MemoryRecovered

if TYPE_CHECKING:
    from embank.bank import Bank, LocalCollection

CYCLE_OPS = 200
COMPACT_OPS = 1_000
"""A multiple of the one before: it follows a release."""

REPORT_OPS = 50
_GROUPS = 10
_AT_ONCE = 2
_POOL = 200
_BURST = 8
_WORDS = (3, 6)

WEIGHTS = {
    "ingest": 12,
    "update": 8,
    "relabel": 4,
    "hybrid": 14,
    "dense": 14,
    "lexical": 14,
    "filtered": 8,
    "get": 6,
    "list": 6,
    "churn": 2,
}
"""How often each kind is drawn, beside `delete`, which follows each ingest, `release` and `compact`."""
KINDS = (*WEIGHTS, "delete", "release", "compact", "open", "close")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. It ends after `ops` operations or `seconds`, whichever comes first; at least one is given."""

    bank: str
    texts: str
    now: str
    budget: str
    ops: int | None
    seconds: float | None = None
    live: int = 1_000
    seed: int = 7
    model: str = "minilm"


class Now:
    """The operation under way, told through a mapped file: its number and its kind."""

    _FORM = struct.Struct("<QQ")

    def __init__(self, path: Path) -> None:
        """Open the file, which must hold `Now.SIZE` bytes."""
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self.SIZE)

    SIZE = _FORM.size

    def set(self, number: int, kind: str) -> None:
        """Say what is being done."""
        self._FORM.pack_into(self._map, 0, number, KINDS.index(kind))

    def get(self) -> tuple[int, str]:
        """What is being done."""
        number, kind = self._FORM.unpack_from(self._map, 0)
        return number, KINDS[kind]


class WrongAnswerError(Exception):
    """An operation ended without an error and with a wrong result."""


@dataclass(slots=True)
class Latencies:
    """Counts of durations by size: percentiles within 5 %, in bounded memory however many there are."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[math.ceil(math.log(max(seconds, 1e-6) / 1e-6, 1.05))] += 1

    def percentile_ms(self, percent: float) -> float:
        """The duration that `percent` of them do not exceed."""
        wanted = percent / 100 * self.counts.total()
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return float(1e3 * 1e-6 * 1.05**bucket)
        return 0.0


@dataclass(slots=True)
class Told:
    """What the bank told of its memory: clean-ups by how they ended, and the first suspicions of creep, in words."""

    recoveries: Counter[bool] = field(default_factory=Counter)
    suspicions: list[str] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        if isinstance(event, MemoryRecovered):
            self.recoveries[event.ok] += 1
        elif isinstance(event, (CreepSuspected, LeakAttributed)) and len(self.suspicions) < 20:
            self.suspicions.append(str(event)[:500])


class Soak:
    """The operations. `texts` are what documents are made of; all randomness comes from the plan's seed."""

    def __init__(self, bank: Bank, plan: Plan, texts: list[str]) -> None:
        self._bank = bank
        self._notes: LocalCollection = bank.collection("soak")
        self._texts = texts
        self._live = plan.live
        self._rng = random.Random(plan.seed)
        self._states: dict[int, tuple[int, int]] = {}
        """Version of the text, and group, of each document that is there."""
        self._order: deque[int] = deque()
        self._next = 0
        self._pool = [self._fresh() for _ in range(_POOL)]
        self._acts: dict[str, Callable[[], None]] = {
            "ingest": lambda: self.ingest(_AT_ONCE),
            "delete": self.delete,
            "update": self.update,
            "relabel": self.relabel,
            "hybrid": lambda: self.search("hybrid"),
            "dense": lambda: self.search("dense"),
            "lexical": lambda: self.search("lexical"),
            "filtered": lambda: self.search("hybrid", group=self._rng.randrange(_GROUPS)),
            "get": self.get,
            "list": self.page,
            "churn": self.churn,
            "release": self.release,
            "compact": self.compact,
        }

    def kinds(self) -> Iterator[str]:
        """What to do next, without end."""
        done = 0
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        while True:
            for kind in self._rng.choices(names, weights, k=256):
                for each in (kind, "delete") if kind == "ingest" else (kind,):
                    yield each
                    done += 1
                    if done % CYCLE_OPS == CYCLE_OPS - 1:
                        yield "release"
                        done += 1
                        if done % COMPACT_OPS == 0:
                            yield "compact"
                            done += 1

    def do(self, kind: str) -> None:
        """One operation; `WrongAnswerError`, or whatever the bank raises."""
        self._acts[kind]()

    def fill(self) -> None:
        """Add the first documents."""
        while len(self._order) < self._live:
            self.ingest(min(100, self._live - len(self._order)))

    def check_all(self) -> None:
        """Every document is there, whole, and no other."""
        seen = 0
        after: str | None = None
        while page := self._notes.list(limit=500, after=after):
            for document in page:
                self._compare(document.id, document.text, document.metadata)
            seen += len(page)
            after = page[-1].id
        _want(seen, len(self._order))
        _want(self._notes.count(), len(self._order))

    def ingest(self, count: int) -> None:
        """Documents with new ids."""
        made = {self._next + each: (0, self._rng.randrange(_GROUPS)) for each in range(count)}
        self._next += count
        report = self._notes.add([self._document(number, *state) for number, state in made.items()])
        self._states |= made
        self._order.extend(made)
        _want(report.added, count)

    def delete(self) -> None:
        """The oldest documents, until the number is as it was."""
        gone = list(self._order)[: len(self._order) - self._live]
        _want(self._notes.delete([_name(number) for number in gone]), len(gone))
        for number in gone:
            del self._states[number]
            self._order.popleft()
        _want(self._notes.count(), self._live)

    def update(self) -> None:
        """Other texts for documents that exist."""
        self._replace(lambda version, group: (version + 1, group), "updated")

    def relabel(self) -> None:
        """Other metadata, the same texts."""
        self._replace(lambda version, group: (version, (group + 1) % _GROUPS), "relabeled")

    def search(self, mode: Any, *, group: int | None = None, query: str | None = None) -> None:
        """A question: one of those asked before, more often the earlier ones, or a new one."""
        if query is None:
            old = self._rng.random() < 0.5
            query = self._pool[int(_POOL * self._rng.random() ** 3)] if old else self._fresh()
        where = None if group is None else {"group": group}
        hits = self._notes.search(query, k=5, mode=mode, where=where)
        if mode != "lexical" and group is None:
            _want(len(hits), 5)
        for hit in hits:
            self._compare(hit.id, hit.text, {"group": group} if group is not None else hit.metadata)

    def get(self) -> None:
        """Some documents by their ids."""
        names = [_name(number) for number in self._some()]
        found = self._notes.get(names)
        _want([document.id for document in found], names)
        for document in found:
            self._compare(document.id, document.text, document.metadata)

    def page(self) -> None:
        """A page of the list."""
        for document in self._notes.list(limit=20, after=_name(self._rng.choice(self._order))):
            self._compare(document.id, document.text, document.metadata)

    def churn(self) -> None:
        """Questions that nobody asked before, in a row: they push out what caches hold."""
        for _ in range(_BURST):
            self.search("dense", query=self._fresh())

    def release(self) -> None:
        """Let go of everything that can be earned again, the model first of all."""
        self._bank.release()

    def compact(self) -> None:
        """Let go of the vectors and words of what was updated and deleted; the documents are the same."""
        report = self._notes.compact()
        _want((report.documents, report.slots_after), (len(self._states), report.passages))

    def _some(self) -> list[int]:
        return self._rng.sample(self._order, _AT_ONCE)

    def _replace(self, change: Callable[[int, int], tuple[int, int]], counted: Literal["updated", "relabeled"]) -> None:
        states = {number: change(*self._states[number]) for number in self._some()}
        report = self._notes.add([self._document(number, *state) for number, state in states.items()])
        self._states |= states
        _want(report.as_dict()[counted], len(states))

    def _document(self, number: int, version: int, group: int) -> dict[str, Any]:
        return {"id": _name(number), "text": self._text(number, version), "metadata": {"group": group}}

    def _text(self, number: int, version: int) -> str:
        return f"{self._texts[(number * 7 + version * 104_729) % len(self._texts)]} ({number}, {version})"

    def _compare(self, name: str, text: str, metadata: Mapping[str, Any]) -> None:
        """What was found under a name against what was put there."""
        state = self._states.get(int(name[1:]))
        if state is None:
            raise WrongAnswerError(f"{name} was found after its deletion")
        version, group = state
        _want(text, self._text(int(name[1:]), version))
        _want(dict(metadata), {"group": group})

    def _fresh(self) -> str:
        count = self._rng.randint(*_WORDS)
        return " ".join(self._rng.choice(self._rng.choice(self._texts).split() or ["what"]) for _ in range(count))


def _name(number: int) -> str:
    return f"d{number:09d}"


def _want(found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongAnswerError(f"found {found!r} where {wanted!r} belongs")


def run(plan: Plan, say: Callable[[dict[str, Any]], None]) -> None:
    """Do what the plan says and tell about it."""
    import embank

    now = Now(Path(plan.now))
    now.set(0, "open")
    texts: list[str] = json.loads(Path(plan.texts).read_text())
    told = Told()
    latencies = {kind: Latencies() for kind in (*WEIGHTS, "delete", "release", "compact")}
    failures: list[str] = []
    failed = done = 0
    with embank.open(plan.bank, memory=plan.budget, model=plan.model, own_process=True) as bank:
        heard = bank.events.subscribe(told.hear)
        soak = Soak(bank, plan, texts)
        soak.fill()
        began = time.perf_counter()
        say({"filled": plan.live})

        def report(kind: str) -> None:
            memory = bank.memory()
            say({
                "op": done,
                "kind": kind,
                "documents": bank.collection("soak").count(),
                "tree_bytes": memory.tree_bytes,
                "managed_bytes": memory.managed_bytes,
                "rung": memory.rung,
            })  # fmt: skip

        for kind in soak.kinds():
            elapsed_s = time.perf_counter() - began
            if done == plan.ops or (plan.seconds is not None and elapsed_s >= plan.seconds):
                break
            now.set(done, kind)
            started = time.perf_counter()
            try:
                soak.do(kind)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the operation failed, and the next one follows
                failed += 1
                if len(failures) < 20:
                    failures.append(f"{done} {kind}: {type(error).__name__}: {error}"[:300])
            latencies[kind].add(time.perf_counter() - started)
            done += 1
            if done % REPORT_OPS == 0:
                report(kind)
        seconds = time.perf_counter() - began
        now.set(done, "close")
        try:
            soak.check_all()
        except WrongAnswerError as error:
            failed += 1
            failures.append(f"in the end: {error}")
        bank.events.flush(10)
        memory = bank.memory()
        summary = {
            "ops": done,
            "failed": failed,
            "failures": failures,
            "seconds": seconds,
            "recoveries": told.recoveries.total(),
            "recoveries_failed": told.recoveries[False],
            "suspicions": told.suspicions,
            "events_dropped": heard.dropped,
            "slots": stats.slots if (stats := bank.collection("soak").stats()) else 0,
            "latency_ms": {
                kind: {"p50": each.percentile_ms(50), "p95": each.percentile_ms(95), "p99": each.percentile_ms(99)}
                for kind, each in latencies.items()
                if each.counts
            },
            "memory": memory.as_dict(),
        }
    say({"summary": summary})


def main() -> None:
    """Run the plan given as JSON."""
    from embank.memory import hygiene

    hygiene.apply()
    answers, sys.stdout = sys.stdout, sys.stderr

    def say(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    run(Plan(**json.loads(sys.argv[1])), say)


def command(plan: Plan) -> list[str]:
    """What runs the plan in a process of its own."""
    return [sys.executable, "-m", "benchmarks.soaking", json.dumps(asdict(plan))]


if __name__ == "__main__":
    main()

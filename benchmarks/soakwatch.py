"""One soak, watched from outside: starts `benchmarks.soaking`, samples its tree, keeps what it says."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.growth import Growth, growth
from benchmarks.sampling import Sampler
from benchmarks.soaking import CYCLE_OPS, Now, Plan, command
from embank.system.size import Size

MB = 1e6
MOST_OVER = 100
"""Samples above the budget that are kept in full; all of them are counted."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was held at a moment, and which operation was under way."""

    seconds: float
    held_bytes: int
    op: int
    kind: str


@dataclass(slots=True)
class Seen:
    """What was seen of a run. Memory is of the tree, anonymous + shared, in bytes.

    `over_s` is the time above the budget, `over` the first such samples. `peaks` holds the highest of each second.
    `growth` is that of what was held right after everything was let go (`quiet`): whatever is never given back shows
    there, without the models and batches that come and go. `busy_growth` is that of all `points`.
    """

    budget_bytes: int
    over_s: float = 0.0
    over: list[Sample] = field(default_factory=list)
    peak: Sample = field(default_factory=lambda: Sample(0.0, 0, 0, "open"))
    peaks: dict[int, Sample] = field(default_factory=dict)
    looks: int = 0
    seconds: float = 0.0
    longest_unseen_s: float = 0.0
    ops: int = 0
    documents: tuple[int, int] = (0, 0)
    rungs: Counter[str] = field(default_factory=Counter)
    points: list[tuple[int, float]] = field(default_factory=list)
    quiet: list[tuple[int, float]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    growth: Growth | None = None
    busy_growth: Growth | None = None

    @property
    def peak_bytes(self) -> int:
        return self.peak.held_bytes

    @property
    def ops_per_s(self) -> float:
        return float(self.summary["ops"] / max(self.summary["seconds"], 1e-9))

    def ops_and_peaks(self) -> Iterator[tuple[int, float]]:
        """The highest of each second in megabytes, in order, with the operation that it was seen in."""
        return ((sample.op, sample.held_bytes / MB) for _, sample in sorted(self.peaks.items()))

    def look(self, sample: Sample, since_s: float) -> None:
        """Take a sample in."""
        self.looks += 1
        self.seconds = sample.seconds
        self.longest_unseen_s = max(self.longest_unseen_s, since_s)
        if sample.held_bytes > self.peak.held_bytes:
            self.peak = sample
        highest = self.peaks.get(int(sample.seconds))
        if highest is None or sample.held_bytes > highest.held_bytes:
            self.peaks[int(sample.seconds)] = sample
        if sample.held_bytes > self.budget_bytes:
            self.over_s += since_s
            if len(self.over) < MOST_OVER:
                self.over.append(sample)

    def hear(self, said: dict[str, Any]) -> None:
        """Take in what the child said."""
        if "summary" in said:
            self.summary = said["summary"]
        elif "filled" in said:
            self.documents = (said["filled"], said["filled"])
        else:
            self.ops = said["op"]
            least, most = self.documents
            self.documents = min(least, said["documents"]), max(most, said["documents"])
            self.rungs[said["rung"] or "none"] += 1
            unmanaged = (said["tree_bytes"] - said["managed_bytes"]) / MB
            self.points.append((said["op"], unmanaged))
            if said["kind"] == "release":
                self.quiet.append((said["op"], unmanaged))


def soak(
    room: Path,
    texts: list[str],
    *,
    budget: str,
    ops: int | None,
    seconds: float | None = None,
    samples: Path | None = None,
    tell: Callable[[Seen, int | None], None] = lambda *_: None,
    **plan: Any,
) -> Seen:
    """Run one soak to its end in the folder `room`; `plan` are further fields of the `Plan`.

    `tell` is called with what was seen so far, whenever the child has said something. Raises `RuntimeError` where the
    child did not come to its end, with what it said last.
    """
    file, now_file = room / "texts.json", room / "now"
    file.write_text(json.dumps(texts))
    now_file.write_bytes(bytes(Now.SIZE))
    now = Now(now_file)
    seen = Seen(Size(budget).resolve(0))
    told = Plan(str(room / "soak.bank"), str(file), str(now_file), budget, ops, seconds, **plan)
    with ExitStack() as stack:
        keep: IO[str] | None = None
        if samples is not None:
            samples.parent.mkdir(parents=True, exist_ok=True)
            keep = stack.enter_context(samples.open("w"))
        errors = stack.enter_context((room / "errors").open("w+"))
        child = stack.enter_context(subprocess.Popen(command(told), stdout=subprocess.PIPE, stderr=errors, text=True))
        stack.callback(child.kill)  # before the child is waited for, should anything below raise

        def look(at_s: float, held: int, since_s: float) -> None:
            seen.look(Sample(at_s, held, *now.get()), since_s)

        stack.enter_context(Sampler(child.pid, look))
        for line in child.stdout or ():
            seen.hear(json.loads(line))
            tell(seen, ops)
        child.wait()
        if child.returncode or not seen.summary:
            errors.seek(0)
            raise RuntimeError(f"the soak at {budget} ended with {child.returncode}: {errors.read()[-2000:]}")
        if keep is not None:
            _keep(seen, keep)
    seen.growth = growth(seen.quiet, cycle_ops=CYCLE_OPS)
    seen.busy_growth = growth(seen.points, cycle_ops=CYCLE_OPS)
    return seen


def _keep(seen: Seen, file: IO[str]) -> None:
    for kind, each in (("highest", sorted(seen.peaks.values(), key=lambda one: one.seconds)), ("over", seen.over)):
        for sample in each:
            file.write(json.dumps({"sample": kind, **asdict(sample)}) + "\n")
    for op, unmanaged in seen.points:
        file.write(json.dumps({"op": op, "unmanaged_mb": unmanaged}) + "\n")

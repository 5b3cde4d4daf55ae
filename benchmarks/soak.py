"""Memory over many mixed operations: `python -m benchmarks.soak --json [--ops N] [--hours H] [--budget 192MB,…]`.

A child process (`benchmarks.soaking` says what it does) works on a bank with a constant number of documents, once for
each budget. Its whole tree is sampled at 100 Hz from outside.

real_over_budget_ms       how long anonymous + shared memory was above the budget, summed over the budgets; a sample
                          stands for the time since the one before it
growth_mb_per_1000_ops    unmanaged memory (the tree less what consumers say they hold) right after each release of all
                          that can be earned again: the upper end of the 95 % interval of its slope after the warm-up,
                          see `benchmarks.growth`; the largest of the budgets. `busy_growth` in the detail is that of
                          readings at any time, whose interval is several times as wide: what a model, a batch or the
                          allocator holds for the moment hides what is never given back
ops_failed                operations that raised, or answered wrongly; ops_per_s of the slowest budget
recoveries_failed         `MemoryRecovered` events that were not ok, and recoveries, all of them
…_192 and so on           the same for each budget, in megabytes; peak_mb_192: the most that was held there

20,000 operations a budget by default: some minutes each on two cores. In so few, what the allocator keeps wanders
by half a megabyte, and the interval may reach the mark where nothing grows: a check that must not err by chance takes
another one by `--most-growth`. `--ops 1000000` and `--hours 24` (without --ops: as many as come) are the long forms.
`--out FOLDER` keeps the samples as JSON lines, the highest of each second and every one above the budget; `--chart
FILE.svg` draws them and what was held right after each release, with the length of the run in its title.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import corpora
from benchmarks.report import Mark, publish
from benchmarks.soakwatch import Seen, soak
from embank.system.size import Size

MARKS = {
    "real_over_budget_ms": Mark("<=", 0),
    "growth_mb_per_1000_ops": Mark("<", 0.05),
    "ops_failed": Mark("<=", 0),
    "recoveries_failed": Mark("<=", 0),
}
OPS = 20_000
BUDGETS = "192MB,256MB,512MB"
MB = 1e6
_TEXTS = 20_000
_CHARACTERS = 80
_PROGRESS_S = 15.0

Figures = dict[str, float | None]


def texts() -> tuple[str, list[str]]:
    """A corpus's name, and short texts of it, so that an operation takes milliseconds."""
    name, found = corpora.wordnet(_TEXTS)
    return name, [text[:_CHARACTERS] for text in found]


def figures_of(runs: dict[str, Seen]) -> Figures:
    """The figures of all budgets together, then of each."""
    highs = [None if seen.growth is None else seen.growth.high for seen in runs.values()]
    figures: Figures = {
        "real_over_budget_ms": sum(seen.over_s for seen in runs.values()) * 1e3,
        "growth_mb_per_1000_ops": None if None in highs else max(high for high in highs if high is not None),
        "ops_failed": sum(seen.summary["failed"] for seen in runs.values()),
        "recoveries_failed": sum(seen.summary["recoveries_failed"] for seen in runs.values()),
        "recoveries": sum(seen.summary["recoveries"] for seen in runs.values()),
        "ops_per_s": min(seen.ops_per_s for seen in runs.values()),
    }
    for budget, seen in runs.items():
        size = f"{Size(budget).resolve(0) / MB:.0f}"
        figures |= {
            f"real_over_budget_ms_{size}": seen.over_s * 1e3,
            f"growth_mb_per_1000_ops_{size}": None if seen.growth is None else seen.growth.high,
            f"peak_mb_{size}": seen.peak_bytes / MB,
        }
    return figures


def detail_of(seen: Seen) -> dict[str, Any]:
    """What stands behind a budget's figures."""
    return {
        **{key: value for key, value in seen.summary.items() if key != "memory"},
        "ops_per_s": seen.ops_per_s,
        "documents": seen.documents,
        "quiet": thinned(seen.quiet),
        "growth": None if seen.growth is None else asdict(seen.growth),
        "busy_growth": None if seen.busy_growth is None else asdict(seen.busy_growth),
        "hertz": seen.looks / max(seen.seconds, 1e-9),
        "longest_unseen_ms": seen.longest_unseen_s * 1e3,
        "peak": asdict(seen.peak),
        "over": [asdict(each) for each in seen.over],
        "rungs": seen.rungs,
    }


def progress(budget: str) -> Callable[[Seen, int | None], None]:
    """Says on standard error how far a run is: in place on a terminal, else a line now and then."""
    last_s = 0.0
    terminal = sys.stderr.isatty()

    def tell(seen: Seen, ops: int | None) -> None:
        nonlocal last_s
        if time.perf_counter() - last_s < (0.5 if terminal else _PROGRESS_S):
            return
        last_s = time.perf_counter()
        wanted = "" if ops is None else f"/{ops:,}"
        line = f"{budget}: {seen.ops:,}{wanted} operations in {seen.seconds:,.0f} s, peak {seen.peak_bytes / MB:.0f} MB"
        over = f", {seen.over_s * 1e3:.0f} ms over" if seen.over_s else ""
        print(f"{line}{over}", end="\r" if terminal else "\n", file=sys.stderr, flush=True)

    return tell


def chart(runs: dict[str, Seen], corpus: str, target: Path) -> None:
    """Memory over the operations, a panel a budget."""
    from benchmarks.chart import drawing

    ops = {seen.ops for seen in runs.values()}
    seconds = sum(seen.seconds for seen in runs.values())
    length = f"{min(ops):,} operations each" if len(ops) == 1 else f"{sum(ops):,} operations in all"
    with drawing(target, rows=len(runs), size=(8, 1.2 + 2 * len(runs))) as panels:
        panels[0].set_title(f"Soak on {corpus}: {length}, {seconds / 60:.0f} minutes in all, sampled at 100 Hz")
        for axes, (budget, seen) in zip(panels, runs.items(), strict=True):
            axes.axhline(Size(budget).resolve(0) / MB, color="tab:red", label=f"budget {budget}")
            for label, points in (
                ("anonymous + shared, highest", seen.ops_and_peaks()),
                ("of it unmanaged, right after a release", seen.quiet),
            ):
                axes.plot(*zip(*thinned(points), strict=True), linewidth=0.8, label=label)
            axes.set(ylabel="MB", ylim=(0, None), xlim=(0, None))
            axes.legend(loc="lower right")
        panels[-1].set_xlabel("operations")


def thinned(points: Iterable[tuple[int, float]], *, most: int = 800) -> list[tuple[int, float]]:
    """At most so many points: of neighbours the highest stands."""
    listed = list(points)
    step = -(-len(listed) // most) or 1
    return [max(listed[at : at + step], key=lambda point: point[1]) for at in range(0, len(listed), step)]


def main() -> None:
    """One budget after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a mark is missed")
    parser.add_argument("--ops", type=int, help=f"operations for each budget; {OPS:,} unless --hours is given")
    parser.add_argument("--hours", type=float, help="an end by time, for each budget")
    parser.add_argument("--budget", default=BUDGETS, help=f"budgets, with commas between them; {BUDGETS} by default")
    parser.add_argument("--most-growth", type=float, help="the mark for growth_mb_per_1000_ops, instead of 0.05")
    parser.add_argument("--out", type=Path, help="a folder to keep the samples in, as JSON lines")
    parser.add_argument("--chart", type=Path, help="an SVG file to draw memory over time into (needs matplotlib)")
    given = parser.parse_args()
    ops = OPS if given.ops is None and given.hours is None else given.ops
    seconds = None if given.hours is None else given.hours * 3_600
    corpus, documents = texts()
    runs: dict[str, Seen] = {}
    for budget in given.budget.split(","):
        with tempfile.TemporaryDirectory() as folder:
            runs[budget] = soak(
                Path(folder),
                documents,
                budget=budget,
                ops=ops,
                seconds=seconds,
                samples=None if given.out is None else given.out / f"soak-{budget}.jsonl",
                tell=progress(budget),
            )
        print(json.dumps(figures_of({budget: runs[budget]})), file=sys.stderr, flush=True)
    if given.chart is not None:
        chart(runs, corpus, given.chart)
    detail = {"corpus": corpus, "runs": {budget: detail_of(seen) for budget, seen in runs.items()}}
    marks = dict(MARKS)
    if given.most_growth is not None:
        marks["growth_mb_per_1000_ops"] = Mark("<", given.most_growth)
    met = publish("soak", figures_of(runs), marks, detail, as_json=given.json)
    sys.exit(given.strict and not met)


if __name__ == "__main__":
    main()

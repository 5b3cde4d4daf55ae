"""Kill a process that writes a bank, again and again, and look at what it left: `python -m tests.crash --rounds 1000`.

SIGKILL hits ingestion, upserts, deletions, purges, compactions, drops, index snapshots, lexical commits, backups
and re-embeddings, at the so many-th thing that it does to the disk or after a while. With `--power-cut`, what was not
synchronised is lost, too. With `--server`, what is killed is a server that several clients write to. What is found is
held against what was acknowledged before the kill.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tests.crash import shim
from tests.crash.rounds import Plan, Runner, Summary

_FIGURES = (
    "lost",
    "duplicates",
    "half_written",
    "came_back",
    "failed_openings",
    "damaged",
    "other",
)


_FAST = Path("/dev/shm")  # noqa: S108 -- a folder with a random name is made in it


def main() -> int:
    """0 when all is well, 1 when anything was lost or broken, 2 when it can't be run here."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=None, help="as a failed run has printed it")
    parser.add_argument("--power-cut", action="store_true", help="lose what was not synchronised, as well")
    parser.add_argument("--server", action="store_true", help="kill a server, while several clients write to it")
    parser.add_argument("--faults", action="store_true", help="no kills: writing and synchronising fails for a while")
    parser.add_argument("--no-sync", action="store_true", help="with --power-cut: ignore every fsync; this must fail")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: a temporary one in memory")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args()
    if given.server and (given.power_cut or given.faults):
        parser.error("--server is for kills alone")
    console = Console(stderr=True)
    try:
        library: Path | None = shim.compiled()
    except OSError as error:
        if given.power_cut or given.faults:
            console.print(f"no power cuts here: {error}", markup=False)
            return 2
        console.print(f"kills at random times only: {error}", markup=False)
        library = None
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="embank-crash-", dir=given.folder or (_FAST if _FAST.is_dir() else None)))
    plan = Plan(folder, seed, given.rounds, power_cut=given.power_cut, faults=given.faults, syncs=not given.no_sync)
    summary = _run(plan, library, console, runner=_served() if given.server else Runner)
    if summary.clean:
        shutil.rmtree(folder)
    _tell(summary, Console(stderr=given.json))
    if given.json:
        json.dump(summary.as_dict(), sys.stdout)
        sys.stdout.write("\n")
    return 0 if summary.clean else 1


def _served() -> type[Runner]:
    """Imported where it is asked for, since it needs the extra `serve`."""
    from tests.crash.served import ServedRunner

    return ServedRunner


def _run(plan: Plan, library: Path | None, console: Console, *, runner: type[Runner]) -> Summary:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    # Without a thread that redraws: this process forks.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        name = "power cuts" if plan.power_cut else "faults" if plan.faults else "kills"
        task = progress.add_task(name, total=plan.rounds, words="")

        def on_round(summary: Summary) -> None:
            words = f"{summary.kills} kills, {summary.acknowledged:,} acknowledged, {len(summary.failures)} failed"
            progress.update(task, completed=summary.rounds, words=words, refresh=True)

        return runner(plan, library=library).run(on_round)


def _tell(summary: Summary, console: Console) -> None:
    table = Table(title=f"seed {summary.seed}", title_justify="left", show_header=False)
    for name in ("rounds", "kills", "power_cuts", "banks", "acknowledged", "verified", "backups"):
        table.add_row(name.replace("_", " "), f"{getattr(summary, name):,}")
    for name in _FIGURES:
        count = getattr(summary, name)
        table.add_row(name.replace("_", " "), f"[{'red' if count else 'green'}]{count}[/]")
    table.add_row("seconds", f"{summary.seconds:.0f}")
    console.print(table)
    for title, counted in (("interrupted", summary.interrupted), ("killed at", summary.at)):
        histogram = Table(title=title, title_justify="left", show_header=False)
        most = max(counted.values(), default=1)
        for what, count in counted.most_common(40):
            histogram.add_row(what, str(count), "█" * max(round(30 * count / most), 1))
        console.print(histogram)
    for failure in summary.failures:
        console.print(
            f"round {failure['round']} of seed {failure['seed']} failed; its bank is kept in {failure['kept']}",
            markup=False,
        )
        for problem in failure["problems"][:10]:
            console.print(f"  {problem}", markup=False)


if __name__ == "__main__":
    sys.exit(main())

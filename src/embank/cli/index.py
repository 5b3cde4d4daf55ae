"""`embank index show`, `plan` and `build`: what a collection's vectors are searched with, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import output
from embank.cli.opening import open_own_collection
from embank.cli.options import CollectionName, Invocation, on_bank

if TYPE_CHECKING:
    from embank.store.index.base import IndexStatus
    from embank.store.index.planner import Plan


@on_bank
def show(invocation: Invocation, *, collection: CollectionName = "default") -> None:
    """Show what a collection's vectors are searched with, what that holds, and why.

    [bold]embank index show -c notes[/bold]
    """
    with open_own_collection(invocation, collection, "read") as opened:
        status, made = opened.vector_index.status(), opened.vector_index.plan()
    if invocation.as_json:
        output.write_json(
            {
                "collection": collection,
                "index": None if status is None else status.as_dict(),
                "plan": None if made is None else made.as_dict(),
            }
        )
        return
    if status is not None:
        _show_status(collection, status)
    if made is not None:
        output.say(f"chosen by measuring: {made.reason}; `embank index plan` has the table")


@on_bank
def plan(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    anew: Annotated[bool, typer.Option("--anew", help="Measure now, whatever was measured before.")] = False,
) -> None:
    """Show the kinds of index that were measured on a collection's vectors; where none were, measure them now.

    Recall is that of the best 10 after rescoring, carried on from samples to the whole collection. What is chosen is
    built when the index is next made anew.

    [bold]embank index plan -c notes --json[/bold]
    """
    with open_own_collection(invocation, collection, "change" if anew else "read") as opened:
        made = None if anew else opened.vector_index.plan()
        made = made or opened.vector_index.plan(anew=True)
    if invocation.as_json:
        output.write_json({"collection": collection, "plan": None if made is None else made.as_dict()})
    elif made is not None:
        _show_plan(collection, made)


@on_bank
def build(invocation: Invocation, *, collection: CollectionName = "default") -> None:
    """Bring a collection's vector index up to date now, if it is due; in a running process that happens by itself.

    [bold]embank index build -c notes[/bold]
    """
    with open_own_collection(invocation, collection, "change") as opened:
        status = opened.vector_index.refresh()
    if invocation.as_json:
        output.write_json({"collection": collection, "index": None if status is None else status.as_dict()})
    elif status is not None:
        _show_status(collection, status)


def _show_status(collection: str, status: IndexStatus) -> None:
    name = output.plain(collection)
    if status.method is None:
        output.say(f"{name}: {output.counted(status.rows, 'vector')}, scanned exactly; compared by {status.metric}")
    else:
        tail = status.rows - status.indexed_rows
        output.say(
            f"{name}: {output.counted(status.rows, 'vector')} searched with {status.method}, of "
            f"{output.size(status.bytes)} ({status.bytes / max(status.indexed_rows, 1):.0f} bytes a vector); "
            f"{tail:,} of them in no index yet, scanned",
            f"compared by {status.metric}",
            f"trained on {output.counted(status.trained_rows, 'vector')}, made in {output.duration(status.seconds)}",
        )
    if status.probes is not None:
        fresh, last = status.probes.fresh, status.probes.last
        off = f", codes off by {last.error / fresh.error:.2f} times as much" if last.error and fresh.error else ""
        output.say(
            f"last probe, {output.moment(last.at)}, with {last.questions:,} questions about the newest "
            f"{output.counted(last.recent_rows, 'row')}: recall {last.recall:.3f} ({last.recall_low:.3f} to "
            f"{last.recall_high:.3f}); when trained {fresh.recall:.3f}{off}"
        )
    if status.reason is not None:
        output.say(f"why: {status.reason}")


def _show_plan(collection: str, made: Plan) -> None:
    numbers = ["rescored", "holds", "bytes/vector", "recall@10", "lower bound", "a search", "build"]
    drawn = output.table("index", *numbers, "", numbers=numbers)
    for trial in made.trials:
        chosen = trial.method == made.chosen
        output.add_row(
            drawn,
            trial.method.factory,
            f"{trial.method.rescored:,}",
            output.size(trial.bytes),
            f"{trial.method.row_bytes:.0f}",
            f"{trial.recall:.3f}",
            f"{trial.recall_low:.3f}",
            output.duration(trial.query_s),
            output.duration(trial.build_s),
            "chosen" if chosen else ("" if trial.fits else "above the budget"),
        )
    output.show(drawn)
    output.say(
        f"{output.plain(collection)}: {output.counted(made.rows, 'vector')}, measured on {made.sample_rows:,} of them "
        f"with {output.plain(made.asked)}; a search is timed on the sample",
        f"wanted: recall of {made.recall_target:.3f} within {output.size(made.limit_bytes)}",
        f"so: {output.plain(made.reason)}",
    )

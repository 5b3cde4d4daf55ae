"""`embank index evaluate`: every kind of index side by side, on a collection or on texts that every machine has."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import output
from embank.cli.opening import open_own_bank, open_own_collection
from embank.cli.options import CollectionName, Invocation, on_bank

if TYPE_CHECKING:
    from embank.collection import Collection
    from embank.store.index.evaluation import Comparison, Measured

_DOCUMENTS = 4_500
"""Of the standard library's documentation: enough to train every kind."""

_QUOTED = ("pq", "pq-fastscan")


@on_bank
def evaluate(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    rows: Annotated[int, typer.Option("--rows", metavar="N", help="How many vectors are compared.")] = 1_000,
) -> None:
    """Compare the kinds of index on vectors of yours: what each holds, finds, and takes to add and to search.

    Where there is no bank, the texts are the standard library's documentation, embedded with the model in use, which
    takes a minute; nothing is left behind.

    [bold]embank index evaluate -c notes[/bold]
    """
    with _opened(invocation, collection) as opened:
        name, made = opened.name, opened.vector_index.compare(count=rows)
    if invocation.as_json:
        output.write_json({"collection": name, "comparison": None if made is None else made.as_dict()})
    elif made is not None:
        _show(name, made)


@contextmanager
def _opened(invocation: Invocation, collection: str) -> Iterator[Collection]:
    if invocation.bank.exists():
        with open_own_collection(invocation, collection, "read", tells_loads=True) as opened:
            yield opened
        return
    from embank.source.docstrings import StandardLibrary

    with tempfile.TemporaryDirectory(prefix="embank-evaluate-") as folder:
        elsewhere = replace(invocation, bank=Path(folder) / "bank")
        with open_own_bank(elsewhere, "create", tells_loads=True) as bank:
            made = bank.collection("stdlib")
            made.add(islice(StandardLibrary().documents(), _DOCUMENTS))
            yield made


def _show(name: str, made: Comparison) -> None:
    numbers = ["holds", "saved", "recall@10", "lower bound", "codes alone", "train", "add", "a search"]
    drawn = output.table("index", *numbers, numbers=numbers)
    for each in made.measured:
        output.add_row(
            drawn,
            each.method,
            output.size(each.bytes),
            f"{each.saved:.1%}",
            f"{each.recall:.3f}",
            f"{each.recall_low:.3f}",
            f"{each.codes_recall:.3f}",
            output.duration(each.train_s) if each.trained_rows else "–",
            output.duration(each.add_s),
            output.duration(each.search_s),
        )
    output.show(drawn)
    flat = next((each for each in made.measured if each.kind == "flat"), None)
    of = output.counted(made.of_rows, "vector")
    output.say(
        f"{output.plain(name)}: {made.rows:,} of {of} of {made.dimension} dimensions, compared by {made.metric}",
        f"with {output.plain(made.asked)}; a scan of them takes {output.duration(made.exact_s)}",
        "recall is that after rescoring (+ N) with the vectors on the disk; codes alone, without",
        *(said(each, flat) for each in made.measured if flat is not None and each.kind in _QUOTED),
        *(f"{kind} is left out: {output.plain(reason)}" for kind, reason in made.refused.items()),
    )


def said(each: Measured, flat: Measured) -> str:
    """What people ask of product quantisation, in their words."""
    lost = max(each.loss - flat.loss, 0.0)
    adds, searches = each.add_s / flat.add_s, each.search_s / flat.search_s
    return (
        f"{each.method.partition(' ')[0]} saves {each.saved:.1%} of what flat holds at {lost:.1%} loss; adding takes "
        f"{adds:.1f} times as long, a search {searches:.1f} times"
    )

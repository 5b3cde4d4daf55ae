"""`embank stats` and `embank count`: what is there and what it weighs."""

from __future__ import annotations

from typing import Annotated

import typer

from embank.cli import glance, output
from embank.cli.opening import open_collection, open_own_bank
from embank.cli.options import CollectionName, Invocation, WhereFilter, on_bank, parsed_where
from embank.cli.reembed import how_far
from embank.cli.tuning import words


@on_bank
def stats(
    invocation: Invocation,
    *,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", metavar="NAME", help="Only this collection.")
    ] = None,
) -> None:
    """Show what each collection holds and what it weighs on disk, as it is on record; also beside a running server.

    [bold]embank stats --json[/bold]
    """
    with open_own_bank(invocation, "read") as bank:
        found = bank.stats()
        infos = glance.chosen(found, collection, bank=str(bank.path))
        states = {info.name: bank.collection(info.name).reembedding() for info in infos}
        under_way = {name: state for name, state in states.items() if state is not None}
        tunings = {info.name: bank.collection(info.name).tuning() for info in infos}
    told = {name: state.as_dict() for name, state in under_way.items()}
    tuned = {name: tuning.as_dict() for name, tuning in tunings.items() if tuning is not None}
    glance.tell(
        str(invocation.bank), infos, found.disk_bytes, as_json=invocation.as_json, reembedding=told, tuning=tuned
    )
    if not invocation.as_json:
        for name, tuning in tuned.items():
            output.say(f"searches of {output.plain(name)} are tuned: {words(tuning['fusion'])}")
        for name, state in under_way.items():
            output.say(f"{output.plain(name)} is being re-embedded: {how_far(state)}")


@on_bank
def count(invocation: Invocation, *, collection: CollectionName = "default", where: WhereFilter = None) -> None:
    """Print how many documents a collection holds, or how many match.

    [bold]embank count -c notes --where '{"tags": {"$contains": "water"}}'[/bold]
    """
    with open_collection(invocation, collection, "read") as opened:
        documents = opened.count(parsed_where(where))
    if invocation.as_json:
        output.write_json({"collection": collection, "count": documents})
    else:
        output.say(str(documents))

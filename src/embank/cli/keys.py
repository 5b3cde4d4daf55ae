"""`embank keys add`, `list` and `revoke`: who may come in at `embank serve`. A running server takes it up at once."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, cast

import typer

from embank.cli import output
from embank.cli.options import Invocation, on_bank

if TYPE_CHECKING:
    from embank.client.schemas import Scope
    from embank.http.keys import Key, KeyBook


@on_bank
def add(
    invocation: Invocation,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")],
    scope: Annotated[
        str, typer.Option("--scope", metavar="SCOPE", help="read, write (and read), or admin (and all).")
    ] = "read",
) -> None:
    """Make an API key. It is shown this once: the bank keeps its hash alone.

    [bold]embank keys add laptop --scope write[/bold]
    """
    key, token = _book(invocation).add(name, cast("Scope", scope), now=time.time())
    if invocation.as_json:
        output.write_json({"key": token, **_plain(key)})
        return
    output.say(token)


@on_bank
def list_(invocation: Invocation) -> None:
    """The API keys that were made, without their secrets."""
    keys = _book(invocation).keys()
    if invocation.as_json:
        output.write_json({"keys": [_plain(key) for key in keys]})
        return
    if not keys:
        output.say("there are no API keys: embank keys add NAME makes one")
        return
    table = output.table("id", "name", "scope", "made", "revoked")
    for key in keys:
        revoked = None if key.revoked is None else output.moment(key.revoked)
        output.add_row(table, key.id, key.name, key.scope, output.moment(key.created), revoked)
    output.show(table)


@on_bank
def revoke(
    invocation: Invocation,
    *,
    id_: Annotated[str, typer.Argument(metavar="ID", help="Of which key (embank keys list).")],
) -> None:
    """Take an API key out of force, at once."""
    key = _book(invocation).revoke(id_, now=time.time())
    if invocation.as_json:
        output.write_json(_plain(key))
        return
    output.say(f"the key {key.id} ({output.plain(key.name)}) opens nothing any more")


def _book(invocation: Invocation) -> KeyBook:
    """The keys of a bank that exists."""
    invocation.config()
    from embank.http.keys import KeyBook
    from embank.store.schema import check_format

    check_format(invocation.bank)
    return KeyBook(invocation.bank)


def _plain(key: Key) -> dict[str, object]:
    return {name: value for name, value in asdict(key).items() if name != "sha256"}

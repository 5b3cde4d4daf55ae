"""`embank mcp`: a bank for an assistant, over the Model Context Protocol on standard input and output."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli.options import Invocation, on_bank
from embank.registry import import_path

if TYPE_CHECKING:
    from pathlib import Path

    from embank.config import Config
    from embank.integrations.mcp.shelf import Shelf

_TRIES = 2
"""How often a server that is busy is asked again: an assistant waits for the answer."""


@on_bank
def mcp(
    invocation: Invocation,
    *,
    collections: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", metavar="NAME", help="Show this collection only; may be repeated."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", envvar="EMBANK_SERVER", metavar="URL", help="A running server, in a bank's place."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", envvar="EMBANK_KEY", metavar="KEY", help="The server's API key; scope read is enough."),
    ] = None,
) -> None:
    """Let an assistant search and read a bank: a server of the Model Context Protocol, for its configuration.

    It changes nothing. Where `embank serve` holds the bank, that server is asked, so that no second model is loaded.

    [bold]embank mcp --bank ~/notes.bank --memory 512MB[/bold]
    """
    config = invocation.config()
    from embank.integrations.mcp.server import make_server, serve_stdio
    from embank.integrations.mcp.shelf import Chosen

    with _shelf(invocation, server or _serving(invocation.bank), key, config) as shelf:
        # Python's own way to end would wait for a line of standard input. Nothing is written, so nothing is lost.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        serve_stdio(make_server(Chosen(shelf, collections or ()), version=str(import_path("embank:__version__"))))


@contextmanager
def _shelf(invocation: Invocation, server: str | None, key: str | None, config: Config) -> Iterator[Shelf]:
    from embank.integrations.mcp.shelf import BankShelf, ServerShelf

    if server is not None:
        from embank.client.client import Client
        from embank.client.outcome import Retries

        client = Client(server, key=key, retries=Retries(most=_TRIES))
        try:
            client.collections()  # a wrong address or key is told now, where the assistant's log shows it
            yield ServerShelf(client)
        finally:
            client.close()
        return
    from embank.bank import open_bank

    with open_bank(invocation.bank, config=config, read_only=True, own_process=True) as bank:
        yield BankShelf(bank)


def _serving(bank: Path) -> str | None:
    """Where the bank is served right now, if it is."""
    from embank.store.lock import read_holder
    from embank.system.process import is_running

    holder = read_holder(bank / "LOCK")
    pid, started, endpoint = (holder.get(name) for name in ("pid", "started", "endpoint"))
    if not isinstance(pid, int) or not isinstance(endpoint, str):
        return None
    return endpoint if is_running(pid, started if isinstance(started, float) else None) else None

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

    from embank.client.client import Client
    from embank.config import Config
    from embank.remote.surface import OpenBank

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
    from embank.integrations.mcp.chosen import Chosen
    from embank.integrations.mcp.server import make_server, serve_stdio

    with _bank(invocation, server, key, config) as bank:
        # Python's own way to end would wait for a line of standard input. Nothing is written, so nothing is lost.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        serve_stdio(make_server(Chosen(bank, collections or ()), version=str(import_path("embank:__version__"))))


@contextmanager
def _bank(invocation: Invocation, server: str | None, key: str | None, config: Config) -> Iterator[OpenBank]:
    client = _named(server, key) if server is not None else _holding(invocation.bank, key, config)
    if client is None:
        from embank.bank import open_bank

        with open_bank(invocation.bank, config=config, read_only=True, own_process=True) as bank:
            yield bank
        return
    from embank.remote.bank import ServedBank

    with ServedBank(client) as served:
        served.collections()  # a wrong address or key is told now, where the assistant's log shows it
        yield served


def _named(server: str, key: str | None) -> Client:
    from embank.client.client import Client
    from embank.client.outcome import Retries

    return Client(server, key=key, retries=Retries(most=_TRIES))


def _holding(bank: Path, key: str | None, config: Config) -> Client | None:
    """A client of the server that holds the bank right now, if one does."""
    from embank.cli.running import server_client
    from embank.store.lock import read_serving

    serving = read_serving(bank) if config.section("client").use_server else None
    return None if serving is None else server_client(serving, config, key=key)

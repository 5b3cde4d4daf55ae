"""`embank serve`: a bank over HTTP, until it is told to stop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import output
from embank.cli.options import Invocation, on_bank

if TYPE_CHECKING:
    from embank.bank import Bank
    from embank.http.server import BankServer

_SWITCH_S = 0.0005
"""After which a thread that wants the interpreter gets it. A batch needs it for a moment many times over, and waited
5 ms each time (Python's own setting) while requests came in without a pause: processors stood idle under overload."""


@on_bank
def serve(
    invocation: Invocation,
    *,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="ADDRESS", help="Where to listen; beyond 127.0.0.1 needs an API key."),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", help="8080 unless said; 0: one that is free.")
    ] = None,
) -> None:
    """Serve a bank over HTTP: OpenAI's /v1/embeddings, documents, search, health, figures.

    Ctrl-C or SIGTERM ends it, once the requests under way are answered.

    [bold]embank serve --memory 512MB[/bold]

    [bold]embank keys add laptop --scope write && embank serve --host 0.0.0.0[/bold]
    """
    told = invocation.having("http.host", host, flag="--host").having("http.port", port, flag="--port")
    config = told.config()
    from embank.bank import open_bank
    from embank.http.server import BankServer

    sys.setswitchinterval(_SWITCH_S)
    with open_bank(invocation.bank, config=config, own_process=True) as bank:
        server = BankServer(bank, on_ready=lambda _: _tell(bank, server, as_json=invocation.as_json))
        server.serve_until_stopped()


def _tell(bank: Bank, server: BankServer, *, as_json: bool) -> None:
    endpoint, keys = server.endpoint, server.service.guard.keys
    model = bank.config.section("embed").model
    budget_bytes = bank.memory().budget_bytes
    if as_json:
        output.write_json(
            {"endpoint": endpoint, "bank": str(bank.path), "model": model, "budget_bytes": budget_bytes, "keys": keys}
        )
        return
    asked = f"{output.counted(keys, 'key')} may come in (embank keys list)"
    if not keys:
        asked = "no key is asked for, since only this machine can reach it; make one with: embank keys add NAME"
    output.say(
        f"{output.plain(str(bank.path))} is served at {endpoint}",
        f"memory budget {output.size(budget_bytes)}, model {output.plain(model)}",
        f"API keys: {asked}",
        f"OpenAI clients: base_url={endpoint}/v1   health: {endpoint}/readyz   figures: {endpoint}/metrics",
    )

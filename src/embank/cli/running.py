"""The running server that holds a bank, found and made sure of before it is told anything."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from embank.cli.output import print_line
from embank.errors import BankServed, ServiceError
from embank.store.lock import Serving, read_serving

if TYPE_CHECKING:
    from embank.cli.options import Invocation
    from embank.client.client import Client
    from embank.config import Config
    from embank.remote.bank import ServedBank

_ANSWERS_WITHIN_S = 5.0
_KEY_HINT = "A key is made with `embank keys add NAME --scope admin`, and given to commands as EMBANK_CLIENT__KEY"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- where a server may listen, not this command


def served_bank(invocation: Invocation, config: Config, *, writes: bool) -> ServedBank | None:
    """The bank as its server gives it, told on standard error; `None` where no server is to be gone through.

    A command with flags for how a bank is opened (`--model`, `--memory`, most of `--set`) opens it itself, beside the
    server. One that `writes` can't: it raises `BankServed`.
    """
    serving = read_serving(invocation.bank)
    if serving is None or not config.section("client").use_server:
        return None
    flags = invocation.opening_flags()
    if flags and not writes:
        return None
    if flags:
        raise BankServed(
            f"{invocation.bank} is served at {serving.endpoint}, and the server's own settings hold: leave out "
            f"{', '.join(flags)}, or stop it first (Ctrl-C, or kill {serving.pid})",
            pid=serving.pid,
            endpoint=serving.endpoint,
        )
    client = server_client(serving, config)
    if client is None:
        print_line(f"the server at {serving.endpoint} (process {serving.pid}) does not answer as it should")
        return None
    from embank.remote.bank import ServedBank

    print_line(f"through the server at {serving.endpoint}")
    return ServedBank(client, key_hint=_KEY_HINT)


def server_client(serving: Serving, config: Config, *, key: str | None = None) -> Client | None:
    """A client of the server, which has proved itself; `None` where what answers there, if anything, does not.

    It shows the bank's own secret where that holds, and else `key`, or the one that the settings have.
    """
    import httpx2

    from embank.client import local
    from embank.client.client import Client
    from embank.client.outcome import Retries

    url, here = _reached(serving.endpoint)
    try:
        # A transport of its own: no proxy that the environment names gets to see what goes to this machine.
        transport = httpx2.HTTPTransport(verify=_trusted(serving))
    except (OSError, ssl.SSLError):  # its certificate can't be read any more
        return None
    nonce = local.new_nonce()
    with Client(url, retries=Retries(most=0), timeout_s=_ANSWERS_WITHIN_S, transport=transport) as stranger:
        try:
            proved = local.is_proof(stranger.proof(nonce).proof, serving.secret, nonce)
        except ServiceError:
            return None
    if not proved:
        return None
    if here:
        key = local.token(serving.secret)
    elif key is None and (own := config.section("client").key) is not None:
        key = own.get_secret_value()
    return Client(url, key=key, transport=httpx2.HTTPTransport(verify=_trusted(serving)))


def _reached(endpoint: str) -> tuple[str, bool]:
    """Where a server is reached from its own machine, and whether that is by the loopback address."""
    from ipaddress import ip_address

    parts = urlsplit(endpoint)
    named = parts.hostname or ""
    host = _EVERYWHERE.get(named, named)
    here = host == "localhost" or ip_address(host).is_loopback
    return urlunsplit(parts._replace(netloc=f"[{host}]:{parts.port}" if ":" in host else f"{host}:{parts.port}")), here


def _trusted(serving: Serving) -> ssl.SSLContext | bool:
    """Trust in the certificate that the server shows, and in no other, by whatever name it is called here."""
    if serving.certificate is None:
        return True
    context = ssl.create_default_context(cafile=serving.certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context

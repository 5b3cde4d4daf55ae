"""Where an embeddings endpoint is: its address read and checked, what it is called by, and whether it is this machine.

Nothing is connected to and no name is resolved.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from embank.errors import InvalidInput

PREFIX = "remote:"
"""Names of models that begin so are of an endpoint: `remote:text-embedding-3-small`."""

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`url` is what is asked. `place` is it without its query, for messages.

    `identity` stands for host, port and path in a fingerprint: a hash, the same over http and https on usual ports.
    """

    url: str
    place: str
    identity: str
    is_encrypted: bool
    is_loopback: bool


def read_endpoint(url: str) -> Endpoint:
    """The endpoint that a user means by `url`.

    A bare host gets the path `/v1/embeddings`, and a path that does not end in `/embeddings` gets that: the base
    address that clients are commonly given will do. Raises `InvalidInput` for what is no http or https address, and for
    one that carries a name and a password, which would be shown wherever the address is.
    """
    if any(not character.isprintable() or character.isspace() for character in url):
        raise InvalidInput("an address has no blanks and no control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"this is no address: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("an address carries no name and password here: set remote.key (EMBANK_REMOTE__KEY)")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidInput(f"{url!r} is no address of an endpoint: give https://HOST/v1 or http://127.0.0.1:PORT/v1")
    host = parts.hostname.rstrip(".")
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[parts.scheme]:
        shown = f"{shown}:{port}"
    path = parts.path.rstrip("/")
    if not path.endswith("/embeddings"):
        path = f"{path or '/v1'}/embeddings"
    return Endpoint(
        url=urlunsplit((parts.scheme, shown, path, parts.query, "")),
        place=f"{parts.scheme}://{shown}{path}",
        identity=hashlib.blake2b(f"{shown}{path}".encode(), digest_size=16).hexdigest(),
        is_encrypted=parts.scheme == "https",
        is_loopback=_is_loopback(host),
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: where it leads is known only to whoever resolves it
        return False

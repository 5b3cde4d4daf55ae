"""How a server and the commands of its own user know each other: by a secret that only they can read.

A server makes a new secret at each start and leaves it in its bank, in a file of mode 0600. Whoever can read that owns
the data already, so the secret stands for an API key of scope admin; it is taken from this machine alone. Before a
command shows it, or any key, the server proves that it has it, too: it answers a number used once with a code that
follows from both. So another program on the server's port is told nothing, whoever started it. Pure functions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

_MARK = "emb_local_"
_PROOF = b"embank server proof:"


def new_secret() -> str:
    """256 random bits."""
    return secrets.token_hex(32)


def new_nonce() -> str:
    """A number used once."""
    return secrets.token_hex(16)


def token(secret: str) -> str:
    """What stands for an API key."""
    return f"{_MARK}{secret}"


def proof(secret: str, nonce: str) -> str:
    """What a server answers to `nonce` that has `secret`."""
    return hmac.new(secret.encode(), _PROOF + nonce.encode(), hashlib.sha256).hexdigest()


def is_proof(told: str, secret: str, nonce: str) -> bool:
    """Whether a server that answered `told` has `secret`; compared in constant time."""
    return hmac.compare_digest(told.encode(), proof(secret, nonce).encode())


def is_token(shown: str, secret: str) -> bool:
    """Whether `shown` is the token of `secret`: their hashes are compared, in constant time."""
    hashes = [hashlib.sha256(each.encode("utf-8", "surrogatepass")).digest() for each in (shown, token(secret))]
    return hmac.compare_digest(*hashes)

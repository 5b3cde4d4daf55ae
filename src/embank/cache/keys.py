"""From texts to keys: BLAKE2b-128 of (dtype, space, kind, text), keyed with a secret of the cache's own.

128 bits, kept and compared in full, under a key that nobody outside knows: nobody can make a text that collides with
another, or that falls into the same bucket as another. The fields are encoded unambiguously (each but the last with its
length in front), lone surrogates as they are, so that two different texts never give the same bytes and none raises.

Hashing is one C call after the other with nothing around it, since it takes two thirds of a hit: one hasher for each
(space, kind), which has the key and the header behind it already, is copied for each text.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embank.errors import InvalidInput

if TYPE_CHECKING:
    from hashlib import blake2b

Keys = npt.NDArray[np.uint64]
"""shape (n, 2): 128 bits a key, little-endian words."""

KEY_BYTES = 16
_PRESETS = 256
"""Hashers kept ready; one weighs 400 bytes."""


class Hasher:
    """Keys under one `secret` (any number of bytes; random where None). Thread-safe.

    `dtype` is how rows are stored: it is part of the key, so that a second level that outlives a change of it never
    gives rows of another form.
    """

    def __init__(self, secret: bytes | None, dtype: str) -> None:
        if secret is not None and not isinstance(secret, bytes):
            raise InvalidInput(f"the secret of a cache must be bytes, not {type(secret).__name__}")
        if secret == b"":
            raise InvalidInput("the secret of a cache must not be empty; leave it out for a random one")
        # Longer secrets than BLAKE2b takes as a key are hashed first.
        self._key = secrets.token_bytes(32) if secret is None else hashlib.blake2b(secret, digest_size=32).digest()
        self._dtype = dtype
        self._presets: dict[tuple[str, str], Callable[[], blake2b]] = {}

    def preset(self, space: str, kind: str) -> Callable[[], blake2b]:
        """What makes a fresh hasher for texts of this space and kind. Raises `InvalidInput` where either is no str."""
        for name, part in (("space", space), ("kind", kind)):
            if not isinstance(part, str):
                raise InvalidInput(f"{name} must be a str, not {type(part).__name__}", value=part)
        return self._presets.get((space, kind)) or self._prepare(space, kind)

    def digests(self, texts: Sequence[str], space: str, kind: str) -> bytes:
        """16 bytes a text, joined. Raises `InvalidInput` where one is no str."""
        fresh = self.preset(space, kind)

        def digest(text: str) -> bytes:
            hasher = fresh()
            hasher.update(text.encode())
            return hasher.digest()

        try:
            return b"".join([digest(text) for text in texts])
        except (UnicodeEncodeError, AttributeError, TypeError):
            return b"".join([self.digest(text, fresh) for text in texts])

    def keys(self, texts: Sequence[str], space: str, kind: str) -> Keys:
        """The same as words, shape (len(texts), 2)."""
        return np.frombuffer(self.digests(texts, space, kind), "<u8").reshape(-1, 2)

    @staticmethod
    def digest(text: str, fresh: Callable[[], blake2b]) -> bytes:
        """One text's 16 bytes, whatever characters it has."""
        if not isinstance(text, str):
            raise InvalidInput(f"a cache takes texts as str, not {type(text).__name__}", value=text)
        hasher = fresh()
        hasher.update(text.encode("utf-8", "surrogatepass"))
        return hasher.digest()

    def _prepare(self, space: str, kind: str) -> Callable[[], blake2b]:
        hasher = hashlib.blake2b(digest_size=KEY_BYTES, key=self._key)
        for part in (self._dtype, space, kind):
            encoded = part.encode("utf-8", "surrogatepass")
            hasher.update(len(encoded).to_bytes(8, "little"))
            hasher.update(encoded)
        if len(self._presets) >= _PRESETS:
            self._presets.clear()  # they are cheap to make again
        self._presets[space, kind] = hasher.copy
        return hasher.copy


def last_of_each(keys: Keys) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64] | None]:
    """Where some keys occur twice: the place of each one's last, and for each key which of these it is. Else None."""
    if len(keys) == 1 or len(np.unique(keys[:, 0])) == len(keys):
        return None, None
    places: dict[bytes, int] = {}
    names = [key.tobytes() for key in keys]
    for place, key in enumerate(names):
        places.pop(key, None)
        places[key] = place
    order = {key: number for number, key in enumerate(places)}
    return np.array(list(places.values()), np.int64), np.array([order[key] for key in names], np.int64)

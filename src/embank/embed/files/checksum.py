"""Digests of files, read in blocks, so that a file of any size costs one block of memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from embank.errors import ModelFileError

_BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, as hubs publish it. Raises `ModelFileError` when it can't be read."""
    return _digest(path, hashlib.sha256())


def blake2b_of(path: Path) -> str:
    """Hex BLAKE2b-256 of a file: for Embank's own files, where the faster hash will do."""
    return _digest(path, hashlib.blake2b(digest_size=32))


def _digest(path: Path, digest: hashlib._Hash | hashlib.blake2b) -> str:
    buffer = bytearray(_BLOCK)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror or error}", path=str(path)) from error
    return digest.hexdigest()

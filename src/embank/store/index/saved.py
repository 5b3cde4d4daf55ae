"""Codes on the disk: one file, written beside its place and moved in whole, with a checksum over every byte.

    magic (8) | length of the head (4) | head: JSON | CRC-32 of all before (4) | codes | CRC-32 of the codes (4)

It is a derived view: what can't be read is thrown away and built again from the vectors. Where the codes themselves are
kept elsewhere, in a directory beside the file or on a server, what stands for them here is how to find them.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from embank.errors import InvalidInput
from embank.store.index.backend import FOLDER, Home, backend
from embank.store.index.protocol import Codes, Way
from embank.store.vectors import Rows
from embank.system.files import Files

_MAGIC = b"EMBKIDX1"
_LENGTH = struct.Struct("<I")
_MOST_HEAD_BYTES = 1 << 20
_WITNESSES = 64
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """What the file says of itself.

    `name` is the truth it is derived from, `sequence` the change it has applied, `rows` the slots it covers,
    `trained_rows` what its quantisers saw, `of_rows` how many rows there were then. `witness` is a checksum over some
    of the vectors that were put in.
    """

    name: str
    sequence: int
    rows: int
    trained_rows: int
    of_rows: int
    witness: int
    method: Way
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "method": self.method.as_dict()}


def witness(rows: Rows, count: int) -> int:
    """A checksum over the stored vectors of 64 slots spread evenly over the first `count`."""
    slots = (
        np.unique(np.linspace(0, max(count - 1, 0), _WITNESSES).astype(np.int64)) if count else np.empty(0, np.int64)
    )
    return zlib.crc32(rows.pick(slots).data)


def save(path: Path, codes: Codes, head: Head, *, files: Files) -> int:
    """Write the file, durably, whole or not at all; its size in bytes. Raises `OSError`."""
    front = json.dumps(head.as_dict()).encode()
    front = _MAGIC + _LENGTH.pack(len(front)) + front
    with files.replacing(path) as write:
        write(front + _LENGTH.pack(zlib.crc32(front)))
        size, checksum = len(front) + 2 * _LENGTH.size, 0

        def piece(data: bytes) -> None:
            nonlocal size, checksum
            write(data)
            size, checksum = size + len(data), zlib.crc32(data, checksum)

        codes.save(piece)
        write(_LENGTH.pack(checksum))
    return size


def head(path: Path) -> Head | None:
    """What the file at `path` says of itself; `None` where there is none. Raises `ValueError` for a damaged one."""
    try:
        with path.open("rb") as file:
            return _head(file)
    except FileNotFoundError:
        return None


def load(path: Path, home: Home) -> tuple[Codes, Head]:
    """The codes; every byte is checked.

    Raises `ValueError` for a damaged file, `OSError`, `IndexUnavailable` and `MissingExtra`.
    """
    with path.open("rb") as file:
        told = _head(file)
        left = os.fstat(file.fileno()).st_size - file.tell() - _LENGTH.size
        checksum = 0

        def read(size: int) -> bytes:
            nonlocal left, checksum
            data = file.read(max(min(size, left), 0))
            left, checksum = left - len(data), zlib.crc32(data, checksum)
            return data

        codes = backend(told.method.kind).load(told.method, read, home)
        if left or file.read(_LENGTH.size) != _LENGTH.pack(checksum):
            raise ValueError("the checksum over the codes differs")
        if codes.rows != told.rows:
            raise ValueError(f"the codes are of {codes.rows} rows, not of {told.rows}")
    return codes, told


def check(path: Path) -> Head | None:
    """The head of the file at `path`, every byte of which was read and checked; `None` where there is none.

    So is what its backend keeps beside it.

    Raises `ValueError` for a damaged one, and `OSError`. Needs no library and no memory for the codes.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        told = _head(file)
        start = file.tell()
        left = os.fstat(file.fileno()).st_size - start - _LENGTH.size
        checksum = 0
        while left > 0 and (data := file.read(min(left, _BLOCK_BYTES))):
            left, checksum = left - len(data), zlib.crc32(data, checksum)
        if left or file.read(_LENGTH.size) != _LENGTH.pack(checksum):
            raise ValueError("the checksum over the codes differs")
        file.seek(start)
        backend(told.method.kind).check(told.method, file.read, path.parent / FOLDER)
    return told


def _head(file: BinaryIO) -> Head:
    start = file.read(len(_MAGIC) + _LENGTH.size)
    if start[: len(_MAGIC)] != _MAGIC or len(start) < len(_MAGIC) + _LENGTH.size:
        raise ValueError("it is no vector index of Embank")
    (length,) = _LENGTH.unpack(start[len(_MAGIC) :])
    body = file.read(min(length, _MOST_HEAD_BYTES))
    if file.read(_LENGTH.size) != _LENGTH.pack(zlib.crc32(start + body)):
        raise ValueError("the checksum over its head differs")
    values = json.loads(body)
    try:
        way = backend(values["method"]["kind"]).read_way(values["method"])
        return Head(**{**values, "method": way})
    except (TypeError, KeyError, InvalidInput) as error:  # of another version, or of a kind that is not installed
        raise ValueError(f"its head can't be understood: {error}") from error

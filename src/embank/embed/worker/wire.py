"""Messages between a process and its worker: frames on a socket, and what lies beside them in shared memory.

A frame is a header of fixed size (magic, version, kind, generation of the child, id of the request, place and checksum
of the payload, length of the body), a body of JSON and a CRC-32 over both. Token ids, texts and vectors are never in a
frame: they lie in a memfd (see `memfd`), and the frame says where, how long and with which CRC-32. Whatever is
not exactly that is `Garbled`: then the other side can't be trusted any more, and is ended.

Knows nothing of processes, time or models. No pickle: what comes in is numbers, text and JSON.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from embank.embed.engine import TokenIds

_MAGIC = b"EmbW"
_VERSION = 1
# Magic, version, kind, generation, id, then of the payload: offset, length, CRC-32; length of the body.
_HEADER = struct.Struct("<4sBBIQQQII")
_CHECK = struct.Struct("<I")
_MOST_BODY_BYTES = 1 << 20


class Kind(IntEnum):
    """What a frame says. From the parent: LOAD, GRANT, PING and the requests; the rest from the child."""

    LOAD = 1
    """Open this engine (the first frame of all)."""
    PROGRESS = 2
    """The load came further."""
    RESERVE = 3
    """The load asks for bytes of the parent's budget; answered by GRANT, given back with RELEASE."""
    GRANT = 4
    RELEASE = 5
    EVENT = 6
    """Something happened that the parent's stream should hear."""
    LOG = 7
    READY = 8
    """The engine is open; the body tells who it is."""
    ENCODE = 9
    COUNT = 10
    FORWARD = 11
    ANSWER = 12
    ERROR = 13
    """The request of this id, or with id 0 the load, raised."""
    PING = 14
    PONG = 15


class Garbled(ValueError):
    """What came is not what the protocol allows; the message says how."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes in shared memory: where, how many, and their CRC-32."""

    offset: int = 0
    length: int = 0
    check: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `generation` says which child it is to or from, `id` which request it belongs to."""

    kind: Kind
    generation: int
    id: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    payload: Payload = Payload()

    def encoded(self) -> bytes:
        """The bytes to send. Raises `Garbled` for a body of more than a megabyte."""
        body = json.dumps(self.body, separators=(",", ":")).encode() if self.body else b""
        if len(body) > _MOST_BODY_BYTES:
            raise Garbled(f"a message of {len(body)} bytes is longer than {_MOST_BODY_BYTES}")
        place = self.payload
        head = _HEADER.pack(
            _MAGIC,
            _VERSION,
            self.kind,
            self.generation,
            self.id,
            place.offset,
            place.length,
            place.check,
            len(body),
        )
        return head + body + _CHECK.pack(zlib.crc32(body, zlib.crc32(head)))


class Frames:
    """Cuts a stream of bytes into frames. Not thread-safe: one reader."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._rest = bytearray()

    @property
    def incomplete(self) -> bool:
        """Whether a part of a frame has come and the rest has not."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole with `data`. Raises `Garbled` at what is none; nothing after it is any use."""
        rest = self._rest
        rest += data
        while rest:
            if not _MAGIC.startswith(rest[:4]):
                raise Garbled(f"{bytes(rest[:16])!r} is not the beginning of a message")
            if len(rest) < _HEADER.size:
                return
            _, version, kind, generation, number, offset, length, check, body_bytes = _HEADER.unpack_from(rest)
            if version != _VERSION or body_bytes > _MOST_BODY_BYTES:
                raise Garbled(f"a header of version {version} announces a body of {body_bytes} bytes")
            whole = _HEADER.size + body_bytes
            if len(rest) < whole + _CHECK.size:
                return
            if zlib.crc32(rest[:whole]) != _CHECK.unpack_from(rest, whole)[0]:
                raise Garbled("a message's checksum is wrong")
            body = bytes(rest[_HEADER.size : whole])
            del rest[: whole + _CHECK.size]
            if generation != self._generation:
                raise Garbled(f"a message of generation {generation} came where {self._generation} was due")
            yield Frame(_kind(kind), generation, number, _body(body), Payload(offset, length, check))


def _kind(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise Garbled(f"there is no message of kind {number}") from None


def _body(data: bytes) -> Mapping[str, Any]:
    if not data:
        return {}
    try:
        body = json.loads(data)
    except ValueError as error:
        raise Garbled(f"a message's body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise Garbled(f"a message's body is a {type(body).__name__}, not an object")
    return body


# --- payloads -------------------------------------------------------------------------------------------------------


def checksum(buffers: Iterable[bytes | memoryview]) -> int:
    """CRC-32 over all of them, in order."""
    check = 0
    for buffer in buffers:
        check = zlib.crc32(buffer, check)
    return check


def packed_texts(texts: Sequence[str]) -> list[bytes | memoryview]:
    """The number of bytes of each text (int64), then all texts in UTF-8."""
    import numpy as np

    encoded = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    return [lengths.tobytes(), *encoded]


def unpacked_texts(data: bytes, count: int) -> list[str]:
    """What `packed_texts` packed. Raises `Garbled` where the lengths contradict the data."""
    import numpy as np

    start = count * 8
    if len(data) < start:
        raise Garbled(f"{len(data)} bytes are too few for {count} texts")
    lengths = np.frombuffer(data, dtype=np.int64, count=count)
    if (lengths < 0).any() or start + int(lengths.sum()) != len(data):
        raise Garbled(f"the lengths of {count} texts contradict their {len(data)} bytes")
    texts = []
    for length in lengths.tolist():
        try:
            texts.append(data[start : start + length].decode())
        except UnicodeDecodeError as error:
            raise Garbled(f"a text is not UTF-8: {error}") from None
        start += length
    return texts


def packed_rows(rows: Sequence[TokenIds]) -> list[bytes | memoryview]:
    """The length of each row, then all ids: int32 throughout."""
    import numpy as np

    lengths = np.fromiter(map(len, rows), dtype=np.int32, count=len(rows))
    flat = np.concatenate(rows) if rows else np.empty(0, dtype=np.int32)
    return [lengths.tobytes(), np.ascontiguousarray(flat, dtype=np.int32).data.cast("B")]


def unpacked_rows(numbers: npt.NDArray[np.int32], count: int) -> list[TokenIds]:
    """What `packed_rows` packed, as views of `numbers`. Raises `Garbled` where the lengths contradict them."""
    import numpy as np

    lengths, flat = numbers[:count], numbers[count:]
    if len(lengths) < count or (lengths < 1).any() or int(lengths.sum(dtype=np.int64)) != len(flat):
        raise Garbled(f"the lengths of {count} rows contradict their {len(flat)} ids")
    return np.split(flat, np.cumsum(lengths[:-1])) if count else []

"""The file of the second level on disk: a header, an index of buckets, and a ring of records.

    header   geometry, where the ring goes on, the secret that keys are hashed with, a checksum
    index    buckets of 16 entries (key, position), 24 bytes an entry; position 0 is free
    ring     records (checksum, width, key, row), written one behind the other; at the end it begins again, over the
             oldest. A position counts all bytes ever written, so a record lives while it is within a ring's length.

Nothing is synchronised, and nothing need be: a record is believed only where its checksum fits and its key is the one
that was asked for, so whatever a crash, a full disk or a flipped bit leaves behind is not found. Where the header is
not whole the file begins anew, which is what forgets everything.

One process writes, the one that holds the file's lock; others read. Writing is not thread-safe, reading is, also beside
a writer, in whatever process. Everything is read and written at offsets: a mapping would end the process where the disk
is full or the file was cut short.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embank.cache.codec import Rows
from embank.cache.keys import KEY_BYTES, Keys
from embank.system.files import Files
from embank.system.log import get_logger

_log = get_logger(__name__)

WAYS = 16
ENTRY = np.dtype([("key", "<u8", (2,)), ("position", "<u8")])
RECORD_HEAD = 8 + KEY_BYTES
"""Before a row: checksum, width, key."""

_MAGIC = b"embnkc1\n"
_HEADER = struct.Struct("<8sQQQQ32s")
_INDEX_AT = 4_096
_BUCKET_BYTES = WAYS * ENTRY.itemsize
_LOAD = 0.65
"""Entries of all places in the index; what finds its bucket full takes the place of the oldest there."""

Positions = npt.NDArray[np.uint64]
Found = npt.NDArray[np.bool_]
Entries = npt.NDArray[np.void]
"""Of dtype ENTRY."""


class Geometry(NamedTuple):
    """What the header says. No buckets: nothing was ever written."""

    limit_bytes: int
    buckets: int
    ring_bytes: int
    head: int
    secret: bytes

    @property
    def ring_at(self) -> int:
        return _INDEX_AT + self.buckets * _BUCKET_BYTES

    def offset(self, position: int) -> int:
        """Where in the file a position is."""
        return self.ring_at + position % self.ring_bytes

    def oldest(self) -> int:
        """Every position before it is overwritten."""
        return max(self.head - self.ring_bytes, 1)

    def bucket_of(self, keys: Keys) -> npt.NDArray[np.int64]:
        words = (keys[:, 0] >> np.uint64(32)) * np.uint64(self.buckets) >> np.uint64(32)
        return words.astype(np.int64)


def stride(row_bytes: int) -> int:
    """What a record of this width takes."""
    return -(-(RECORD_HEAD + row_bytes) // 8) * 8


class CacheFile:
    """See the module. Raises `OSError` as the kernel does; `writable` tells whether this process is the one to write.

    `read_only` never writes, and raises `FileNotFoundError` where there is no file.
    """

    def __init__(self, path: Path, limit_bytes: int, *, files: Files, read_only: bool = False) -> None:
        self._path, self._files = path, files
        self._descriptor = self._opened(read_only=read_only)
        try:
            if self.writable and self._is_foreign():
                self._put_aside()
            header = self._read_header()
            self.geometry = header or Geometry(limit_bytes, 0, 0, 0, secrets.token_bytes(32))
            if self.writable and (header is None or header.limit_bytes != limit_bytes):
                self.geometry = self.geometry._replace(limit_bytes=limit_bytes)
                self.reset()
            if self.writable and os.fstat(self._descriptor).st_size > limit_bytes:
                files.truncate(self._descriptor, limit_bytes)
        except BaseException:
            os.close(self._descriptor)
            raise

    # --- geometry ---------------------------------------------------------------------------------------------------

    def refresh(self) -> Geometry:
        """The geometry as it is now; for one that only reads, as the writer last wrote it."""
        if not self.writable:
            header = self._read_header()
            if header is not None:
                self.geometry = header
        return self.geometry

    def reset(self) -> None:
        """Forget everything; the secret stays."""
        self._files.truncate(self._descriptor, 0)
        self.geometry = self.geometry._replace(buckets=0, ring_bytes=0, head=0)
        self._write_header()

    def lay_out(self, row_bytes: int) -> None:
        """Share the limit out between index and ring, for rows of this width."""
        room_bytes = self.geometry.limit_bytes - _INDEX_AT
        entries = room_bytes / (stride(row_bytes) + ENTRY.itemsize / _LOAD)
        buckets = max(int(entries / _LOAD / WAYS), 1)
        ring_bytes = (room_bytes - buckets * _BUCKET_BYTES) // 8 * 8
        # It begins a ring's length on, so that no position is 0.
        self.geometry = self.geometry._replace(buckets=buckets, ring_bytes=ring_bytes, head=ring_bytes)

    def advance(self, head: int) -> None:
        """The ring goes on there."""
        self.geometry = self.geometry._replace(head=head)
        self._write_header()

    def disk_bytes(self) -> int:
        """What it takes on the disk; the parts that were never written take nothing."""
        return os.fstat(self._descriptor).st_blocks * 512

    def close(self) -> None:
        os.close(self._descriptor)  # gives up the lock, too

    # --- index ------------------------------------------------------------------------------------------------------

    def buckets(self, numbers: npt.NDArray[np.int64]) -> Entries:
        """The entries of buckets, shape (n, WAYS); free ones where the file is cut short."""
        found = np.zeros((len(numbers), WAYS), ENTRY)
        self._read_each(found.view(np.uint8), (numbers * _BUCKET_BYTES + _INDEX_AT).tolist())
        return found

    def write_buckets(self, numbers: npt.NDArray[np.int64], entries: Entries) -> None:
        content = entries.view(np.uint8)
        for number, bucket in zip(numbers.tolist(), content, strict=True):
            self._files.write_at(self._descriptor, bucket.data, number * _BUCKET_BYTES + _INDEX_AT)

    def scan(self, geometry: Geometry, block_buckets: int = 2_048) -> Iterator[Positions]:
        """The positions in the whole index, in blocks of neighbouring buckets."""
        for start in range(0, geometry.buckets, block_buckets):
            found = np.zeros(min(block_buckets, geometry.buckets - start) * WAYS, ENTRY)
            self._read_each(found.view(np.uint8)[np.newaxis], [_INDEX_AT + start * _BUCKET_BYTES])
            yield found["position"]

    # --- ring -------------------------------------------------------------------------------------------------------

    def records(self, geometry: Geometry, positions: Positions, row_bytes: int) -> tuple[Keys, Rows, Found]:
        """Keys and rows at positions, and which of them are whole and of this width."""
        found = np.zeros((len(positions), RECORD_HEAD + row_bytes), np.uint8)
        self._read_each(found, [geometry.offset(position) for position in positions.tolist()])
        fine = np.ascontiguousarray(found[:, 4:8]).view("<u4")[:, 0] == row_bytes
        checksum = found[:, :4].copy().view("<u4")[:, 0].tolist()
        for number in fine.nonzero()[0].tolist():
            fine[number] = zlib.crc32(found[number, 4:].data) == checksum[number]
        keys = np.ascontiguousarray(found[:, 8:RECORD_HEAD]).view("<u8")
        return keys, found[:, RECORD_HEAD:], fine

    def write_records(self, position: int, keys: Keys, rows: Rows) -> None:
        """Write records one behind the other; the caller sees to it that the ring does not end in between."""
        row_bytes = rows.shape[1]
        content = np.zeros((len(rows), stride(row_bytes)), np.uint8)
        content[:, 4:8] = np.frombuffer(row_bytes.to_bytes(4, "little"), np.uint8)
        content[:, 8:RECORD_HEAD] = np.ascontiguousarray(keys, "<u8").view(np.uint8)
        content[:, RECORD_HEAD : RECORD_HEAD + row_bytes] = rows
        checked = content[:, 4 : RECORD_HEAD + row_bytes]
        sums = np.array([zlib.crc32(record.data) for record in checked], "<u4")
        content[:, :4] = sums[:, np.newaxis].view(np.uint8)
        self._files.write_at(self._descriptor, content.data, self.geometry.offset(position))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _opened(self, *, read_only: bool) -> int:
        self.writable = False
        if read_only:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = self._files.open_append(self._path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("%s is written by another process: it is only read here", self._path)
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        self.writable = True
        return descriptor

    def _is_foreign(self) -> bool:
        start = os.pread(self._descriptor, len(_MAGIC), 0)
        return bool(start) and start != _MAGIC

    def _put_aside(self) -> None:
        """What does not begin as such a file does may be something of the user's: it is renamed, not overwritten."""
        aside = self._path.with_name(f"{self._path.name}.unreadable")
        _log.warning("%s is not a cache: it is kept as %s, and a new one begun", self._path, aside)
        self._path.replace(aside)
        os.close(self._descriptor)
        self._descriptor = self._opened(read_only=False)

    def _read_header(self) -> Geometry | None:
        content = os.pread(self._descriptor, _HEADER.size + 4, 0)
        if len(content) < _HEADER.size + 4 or not content.startswith(_MAGIC):
            return None
        if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
            return None
        _, limit_bytes, buckets, ring_bytes, head, secret = _HEADER.unpack(content[:-4])
        return Geometry(limit_bytes, buckets, ring_bytes, head, secret)

    def _write_header(self) -> None:
        it = self.geometry
        content = _HEADER.pack(_MAGIC, it.limit_bytes, it.buckets, it.ring_bytes, it.head, it.secret)
        content += zlib.crc32(content).to_bytes(4, "little")
        self._files.write_at(self._descriptor, memoryview(content), 0)

    def _read_each(self, into: npt.NDArray[np.uint8], offsets: list[int]) -> None:
        """Fill each row of `into` from its offset; behind the end of the file it stays as it is."""
        # Not os.preadv: not every system has it.
        descriptor, size, read, view = self._descriptor, into.shape[1], os.pread, np.frombuffer
        for row, offset in zip(into, offsets, strict=True):
            content = read(descriptor, size, offset)
            row[: len(content)] = view(content, np.uint8)

"""Memory that a process shares with its worker: one memfd, handed out in regions, grown and shrunk as needed.

The owner maps it; the worker reads and writes the descriptor (`pread`, `pwrite`). So its pages stand in one process's
page tables, and the memory meter, which sums up the shared pages of the process tree, counts them once by itself. A
memfd rather than /dev/shm: that is 64 MB in a container, and what is left there outlives a crash.

It can't be truncated by anybody (sealed), so that no reader is ever hit by SIGBUS; unused pages are given back by
punching holes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embank.embed.worker.wire import Garbled, Payload, checksum
from embank.errors import InvalidInput

if TYPE_CHECKING:
    import numpy.typing as npt

# What stays when nobody uses it: a window's texts and a few batches.
KEPT_BYTES = 1 << 20
# More than this is never shared at once. Whoever comes then waits; a single message that is larger is refused.
_MOST_BYTES = 256 << 20


class Closed(RuntimeError):
    """The memory is gone, with the worker that shared it."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the memory, the taker's alone until given back. Offset and length are multiples of a page."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class SharedMemory:
    """See the module. Thread-safe. Linux only."""

    def __init__(self, *, kept_bytes: int = KEPT_BYTES, most_bytes: int = _MOST_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._most_bytes = most_bytes
        self._taken: list[Region] = []  # by offset
        self._changed = threading.Condition()  # guards what is here, the mapping included
        self.fd = os.memfd_create("embank-worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, kept_bytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._map: mmap.mmap | None = mmap.mmap(self.fd, kept_bytes)
        except BaseException:
            os.close(self.fd)
            raise

    def held_bytes(self) -> int:
        """Bytes of memory behind it now."""
        with self._changed:
            return 0 if self._map is None else os.fstat(self.fd).st_blocks * 512

    def take(self, length: int) -> Region:
        """A region of at least `length` bytes; waits while others hold too much.

        Raises `InvalidInput` for more than may ever be shared, `Closed` when the worker is gone.
        """
        whole = -(-max(length, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        if whole > self._most_bytes:
            raise InvalidInput(
                f"{length} bytes are more than the {self._most_bytes} that a model in a process of its own takes at "
                f"once: cut the text, or set embed.isolation to thread",
                value=length,
            )
        with self._changed:
            while True:
                self._mapped()
                offset = self._gap(whole)
                if offset is not None:
                    break
                self._changed.wait()
            region = Region(offset, whole)
            mapped = self._mapped()
            if region.end > len(mapped):
                # To the next power of two, so that slowly growing messages do not remap each time.
                mapped.resize(min(1 << (region.end - 1).bit_length(), self._most_bytes))
            self._taken.append(region)
            self._taken.sort(key=lambda taken: taken.offset)
            return region

    def give(self, region: Region) -> None:
        """Take a region back. What lies beyond the kept bytes is returned to the system."""
        with self._changed:
            if self._map is None:
                return
            self._taken.remove(region)
            start = max(region.offset, self._kept_bytes)
            if region.end > start:
                self._map.madvise(mmap.MADV_REMOVE, start, region.end - start)
            self._changed.notify_all()

    def write(self, region: Region, buffers: Iterable[bytes | memoryview]) -> Payload:
        """Copy the buffers into the region, one behind the other. Raises ValueError where they do not fit."""
        parts = list(buffers)
        length = sum(map(len, parts))
        if length > region.length:
            raise ValueError(f"{length} bytes do not fit a region of {region.length}")
        with self._changed:
            mapped = self._mapped()
            at = region.offset
            for part in parts:
                mapped[at : at + len(part)] = part
                at += len(part)
        return Payload(region.offset, length, checksum(parts))

    def read(self, region: Region, payload: Payload, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A copy of the payload as numbers. Raises `Garbled` unless it lies within the region, whole and unchanged."""
        import numpy as np

        item_bytes = np.dtype(dtype).itemsize
        if payload.offset != region.offset or payload.length > region.length or payload.length % item_bytes:
            raise Garbled(f"an answer of {payload.length} bytes at {payload.offset} is not in {region}")
        with self._changed:
            view = np.frombuffer(self._mapped(), dtype, payload.length // item_bytes, payload.offset)
            numbers = view.copy()
            del view  # a mapping that is looked at can't grow
        if checksum([numbers.data.cast("B")] if numbers.size else []) != payload.check:
            raise Garbled("the checksum of an answer's numbers is wrong")
        return numbers

    def close(self) -> None:
        """Unmap and close; who waits, or comes later, gets `Closed`. Harmless when repeated."""
        with self._changed:
            mapped, self._map = self._map, None
            if mapped is not None:
                mapped.close()
                os.close(self.fd)
            self._changed.notify_all()

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            raise Closed("the worker's memory is closed")
        return self._map

    def _gap(self, length: int) -> int | None:
        """The lowest place where `length` bytes are free."""
        start = 0
        for region in self._taken:
            if region.offset - start >= length:
                return start
            start = region.end
        return start if start + length <= self._most_bytes else None


def read_at(fd: int, payload: Payload) -> bytes:
    """The worker's side of `write`. Raises `Garbled` where the bytes are not the ones that were sent."""
    data = os.pread(fd, payload.length, payload.offset)
    if len(data) != payload.length or checksum([data]) != payload.check:
        raise Garbled("the checksum of a request's payload is wrong")
    return data


def write_at(fd: int, offset: int, buffers: Iterable[bytes | memoryview]) -> Payload:
    """The worker's side of `read`: the buffers, one behind the other, from `offset` on."""
    parts = [memoryview(part) for part in buffers]
    at = offset
    for part in parts:
        done = 0
        while done < len(part):
            done += os.pwrite(fd, part[done:], at + done)
        at += len(part)
    return Payload(offset, at - offset, checksum(parts))

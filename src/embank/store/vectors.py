"""Raw vectors in append-only segment files, mapped for reading and never written through a mapping.

A vector's slot is its place in the order of all vectors ever appended to its collection; slots are never reused, so a
slot's segment and offset follow from the number alone. Only slots below the mark recorded in the database exist: what
lies past it in a file is the rest of a write that was never acknowledged, and the next writer cuts it off.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embank.errors import BankDamaged
from embank.store.codec import Codec, Float32, Stored
from embank.store.metric import Metric
from embank.store.picking import Scattered, scattered
from embank.system.files import Files

SEGMENT_ROWS = 65_536
DATA_OFFSET = 4_096
_HEADER = struct.Struct("<8s4sIQI")
_MAGIC = b"EMBKVEC1"


@dataclass(frozen=True, slots=True)
class Mapped:
    """A segment's records in two mappings: for reading in order, and for picking some of them."""

    records: Stored
    picked: Stored
    picking: mmap.mmap


class Rows:
    """The stored vectors of slots [0, len): an immutable picture, valid for as long as it is held. Thread-safe.

    `metric` is what they are compared by.
    """

    def __init__(
        self,
        codec: Codec,
        segments: tuple[Mapped, ...],
        count: int,
        scattered_rows: Scattered,
        metric: Metric = "cosine",
    ) -> None:
        self.codec = codec
        self.metric = metric
        self._pickable = [(segment.picking, segment.picked) for segment in segments]
        self._scattered = scattered_rows
        self._count = count
        self._segments = tuple(
            segment.records[: count - number * SEGMENT_ROWS] for number, segment in enumerate(segments)
        )

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int, *, first_slot: int = 0) -> Iterator[tuple[int, Stored]]:
        """(first slot, records) in slot order, at most `size` records each; views of the mapping, not copies."""
        for number, segment in enumerate(self._segments):
            for start in range(max(first_slot - number * SEGMENT_ROWS, 0), len(segment), size):
                yield number * SEGMENT_ROWS + start, segment[start : start + size]

    def pick(self, slots: npt.NDArray[np.int64]) -> Float32:
        """The same as `gather` for few slots far apart: nothing is read ahead around them."""
        return self._scattered.read(self._pickable, slots)

    def scores(self, slots: npt.NDArray[np.int64], query: Float32) -> Float32:
        """The scores of the vectors of `slots` for `query`, shape (dimension,), in that order."""
        return self._scattered.scores(self.metric, self._pickable, slots, query)

    def gather(self, slots: npt.NDArray[np.int64]) -> Float32:
        """float32 vectors of `slots`, in that order; read in ascending order, which is kind to the disk."""
        out = np.empty((len(slots), self.codec.dimension), np.float32)
        for places, stored in self._parts(slots):
            out[places] = self.codec.decode(stored)
        return out

    def records(self, slots: npt.NDArray[np.int64]) -> Stored:
        """Copies of the records of `slots` as they are stored, in that order."""
        out = np.empty(len(slots), self.codec.record)
        for places, stored in self._parts(slots):
            out[places] = stored
        return out

    def _parts(self, slots: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], Stored]]:
        """For each segment, where in `slots` its own stand, and their records, ascending."""
        order = np.argsort(slots, kind="stable")
        ascending = slots[order]
        bounds = np.searchsorted(ascending, np.arange(len(self._segments) + 1) * SEGMENT_ROWS)
        for number, segment in enumerate(self._segments):
            first, last = bounds[number], bounds[number + 1]
            if first < last:
                yield order[first:last], segment[ascending[first:last] - number * SEGMENT_ROWS]


class Segments:
    """The segment files of one collection's generation. One writer at a time; `rows` may be called by any thread."""

    def __init__(self, directory: Path, codec: Codec, *, files: Files, metric: Metric = "cosine") -> None:
        self._directory = directory
        self.codec = codec
        self._metric = metric
        self._files = files
        self._open: tuple[int, int] | None = None  # (segment number, descriptor) of the file being appended to
        self._scattered = Scattered(codec, SEGMENT_ROWS, DATA_OFFSET)
        self._mapped: dict[int, Mapped] = {}  # full or growing segments, the latest mapping of each
        # Kept, because pathlib interns every name, and a table of names grows by those that come and go.
        self._paths: dict[int, Path] = {}

    def append(self, vectors: Float32, *, mark: int) -> None:
        """Write `vectors` at slots [mark, mark + n). Durable only after `sync`; may be repeated with the same mark."""
        self.append_records(self.codec.encode(vectors), mark=mark)

    def append_records(self, stored: Stored, *, mark: int) -> None:
        """The same for records of this codec, as they are."""
        done = 0
        while done < len(stored):
            number, row = divmod(mark + done, SEGMENT_ROWS)
            part = stored[done : done + SEGMENT_ROWS - row]
            descriptor = self._writable(number, fresh=row == 0)
            # A structured array offers no plain buffer, its bytes do.
            self._files.write_at(descriptor, part.view(np.uint8).data, self.offset(row))
            done += len(part)
            if row + len(part) == SEGMENT_ROWS:
                self._files.sync_data(descriptor)

    def sync(self) -> None:
        """Return once everything appended is on the disk."""
        if self._open is not None:
            self._files.sync_data(self._open[1])

    def cut(self, mark: int) -> int:
        """Remove what lies past `mark` (an unacknowledged rest); return the bytes removed. For the writer only."""
        removed = 0
        for path in sorted(self._directory.glob("*.vec")):
            keep = min(max(mark - int(path.stem) * SEGMENT_ROWS, 0), SEGMENT_ROWS)
            size = path.stat().st_size
            if keep == 0:
                path.unlink()
                removed += size
            elif size > self.offset(keep):
                descriptor = self._files.open_append(path)
                try:
                    self._files.truncate(descriptor, self.offset(keep))
                finally:
                    os.close(descriptor)
                removed += size - self.offset(keep)
        if removed:
            self._files.sync_directory(self._directory)
        return removed

    def rows(self, mark: int) -> Rows:
        """The vectors of slots [0, mark)."""
        segments = []
        for number in range(-(-mark // SEGMENT_ROWS)):
            wanted = min(mark - number * SEGMENT_ROWS, SEGMENT_ROWS)
            mapped = self._mapped.get(number)
            if mapped is None or len(mapped.records) < wanted:
                mapped = self._mapped[number] = self._map(number, wanted)
            segments.append(mapped)
        return Rows(self.codec, tuple(segments), mark, self._scattered, self._metric)

    def close(self) -> None:
        """Close the file being written. Mappings live until the last `Rows` that uses them is gone."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None
        self._mapped.clear()

    def path(self, number: int) -> Path:
        """The file of a segment."""
        if number not in self._paths:
            self._paths[number] = self._directory / f"{number:06d}.vec"
        return self._paths[number]

    def header(self, number: int) -> bytes:
        """What the file of a segment begins with."""
        dtype = self.codec.dtype.encode()
        body = _HEADER.pack(_MAGIC, dtype, self.codec.dimension, number * SEGMENT_ROWS, SEGMENT_ROWS)
        return body + struct.pack("<I", zlib.crc32(body))

    def offset(self, row: int) -> int:
        """Where the record of a segment's row begins in its file."""
        return DATA_OFFSET + row * self.codec.record.itemsize

    def _writable(self, number: int, *, fresh: bool) -> int:
        """A descriptor of a segment; one that is `fresh` gets its header, also again after an append that failed."""
        if self._open is not None and self._open[0] == number and not fresh:
            return self._open[1]
        if self._open is not None:
            os.close(self._open[1])
            self._open = None
        self._files.make_directory(self._directory)
        path = self.path(number)
        descriptor = self._files.open_append(path)
        try:
            if fresh:
                self._files.write_at(descriptor, memoryview(self.header(number).ljust(DATA_OFFSET, b"\0")), 0)
                self._files.sync_directory(self._directory)
        except BaseException:
            os.close(descriptor)
            raise
        self._open = (number, descriptor)
        return descriptor

    def _map(self, number: int, wanted: int) -> Mapped:
        path = self.path(number)
        size = self.offset(wanted)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < size:
                    raise BankDamaged(
                        f"{path} is shorter than the {size} bytes recorded: restore the bank from a backup",
                        path=str(path),
                        expected_bytes=size,
                    )
                mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                picking = scattered(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise BankDamaged(f"{path} is missing: restore the bank from a backup", path=str(path)) from error
        header = self.header(number)
        if mapping[: len(header)] != header:
            raise BankDamaged(f"{path} is not the segment that the bank recorded (its header differs)", path=str(path))
        records, picked = (
            np.frombuffer(each, self.codec.record, count=wanted, offset=DATA_OFFSET) for each in (mapping, picking)
        )
        return Mapped(records, picked, picking)

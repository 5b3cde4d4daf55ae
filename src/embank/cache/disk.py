"""The second level on disk: survives a restart, keeps to a limit in bytes, and is never a reason for an error.

Rows lie in one file (see `diskfile`), in the order in which they were written; where the limit is reached the oldest
are overwritten. A row that is found in the older half of the ring is written again at its front, so what is used stays
and what is not goes, in the order of last use but for that. The last vector put under a key is the one that is found.

Memory: nothing is held but the file's header, whatever its size. A call needs buffers for up to 1,024 rows or 1 MB of
them, `recent` 16 bytes for each entry asked for beside that.

Thread-safe: reading takes no lock, writing takes turns. What the disk says (full, not readable) is raised as `OSError`,
for the breaker in front; nothing half-written is ever found. Of several processes one writes, the first; the others
read what is there, and keep nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from embank.cache.codec import Rows
from embank.cache.diskfile import WAYS, CacheFile, Found, Geometry, Positions, stride
from embank.cache.keys import Keys
from embank.cache.settings import LEAST_DISK_BYTES
from embank.cache.stats import SecondStats
from embank.errors import InvalidInput
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.size import Size

_log = get_logger(__name__)

_PIECE_ROWS = 1_024
_PIECE_BYTES = 1 << 20


class DiskLevel:
    """See the module; follows `SecondLevel`.

    `path` is the file, made with its folder where missing; one of another limit or not whole begins anew. `limit` is in
    bytes or a size of 1 MB at least. `read_only`: nothing is written, and `FileNotFoundError` raised where it is not
    there. `files` is for tests.
    """

    def __init__(
        self, path: str | Path, limit: str | int | Size = "1GB", *, read_only: bool = False, files: Files | None = None
    ) -> None:
        limit_bytes = Size(limit).count_bytes
        if limit_bytes is None or limit_bytes < LEAST_DISK_BYTES:
            raise InvalidInput(f"a cache on disk needs a limit in bytes, {LEAST_DISK_BYTES} at least, not {limit}")
        self.path = Path(path)
        self._file = CacheFile(self.path, limit_bytes, files=files or Files(), read_only=read_only)
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._closed = threading.Event()
        self._hits = self._misses = self._errors = 0

    @property
    def secret(self) -> bytes:
        """What keys are to be hashed with to be found again: hand it to the cache in front."""
        return self._file.geometry.secret

    @property
    def limit_bytes(self) -> int:
        """The most that the file takes."""
        return self._file.geometry.limit_bytes

    @property
    def writable(self) -> bool:
        """Whether this process keeps anything; no where another one does."""
        return self._file.writable

    def get_many(self, keys: Keys, row_bytes: int) -> tuple[Rows, Found]:
        """Rows, uint8, shape (n, row_bytes), and which of the n keys were found."""
        rows, found = np.zeros((len(keys), row_bytes), np.uint8), np.zeros(len(keys), bool)
        if not self._closed.is_set() and (geometry := self._file.refresh()).buckets:
            for some in _pieces(len(keys), row_bytes):
                rows[some], found[some] = self._get(geometry, keys[some], row_bytes)
        hits = int(found.sum())
        with self._counting:
            self._hits += hits
            self._misses += len(keys) - hits
        return rows, found

    def put_many(self, keys: Keys, rows: Rows) -> None:
        """Keep rows, uint8, shape (n, row_bytes), under n distinct keys. Does nothing where another process writes."""
        with self._lock:
            if self._closed.is_set() or not self.writable or not len(keys):
                return
            if not self._file.geometry.buckets:
                self._file.lay_out(rows.shape[1])
            self._append(keys, rows)

    def recent(self, row_bytes: int, most: int) -> Iterator[tuple[Keys, Rows]]:
        """Up to `most` entries, those written or found again last first, in blocks."""
        if self._closed.is_set() or most <= 0 or not (geometry := self._file.refresh()).buckets:
            return
        positions = self._latest(geometry, most)
        for some in _pieces(len(positions), row_bytes):
            if self._closed.is_set():
                return
            keys, rows, fine = self._file.records(geometry, positions[some], row_bytes)
            if fine.any():
                yield keys[fine], rows[fine]

    def clear(self) -> int:
        """Forget everything; the bytes that this freed on the disk. 0 where another process writes."""
        with self._lock:
            if self._closed.is_set() or not self.writable:
                return 0
            before_bytes = self._file.disk_bytes()
            self._file.reset()
            return max(before_bytes - self._file.disk_bytes(), 0)

    def stats(self) -> SecondStats:
        """Counters since it was opened, entries and bytes on the disk as of now. Reads the index, 4 % of the file."""
        entries, disk_bytes = 0, 0
        if not self._closed.is_set():
            geometry = self._file.refresh()
            entries = sum(int((some >= geometry.oldest()).sum()) for some in self._file.scan(geometry))
            disk_bytes = self._file.disk_bytes()
        name = "disk" if self.writable else "disk (read only)"
        with self._counting:
            return SecondStats(name, entries, disk_bytes, self._hits, self._misses, self._errors)

    def close(self) -> None:
        """Close the file, so that another process may write it. Closing again does nothing."""
        with self._lock:
            if not self._closed.is_set():
                self._closed.set()
                self._file.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _get(self, geometry: Geometry, keys: Keys, row_bytes: int) -> tuple[Rows, Found]:
        positions = self._positions(geometry, keys)
        known = positions.nonzero()[0]
        rows, found = np.zeros((len(keys), row_bytes), np.uint8), np.zeros(len(keys), bool)
        of, there, fine = self._file.records(geometry, positions[known], row_bytes)
        fine &= (of == keys[known]).all(axis=1)
        right, wrong = known[fine], known[~fine]
        rows[right], found[right] = there[fine], True
        if self.writable:
            if len(wrong):
                self._drop(keys[wrong], positions[wrong])
            old = right[positions[right] < np.uint64(max(geometry.head - geometry.ring_bytes // 2, 0))]
            if len(old):
                self._move_up(keys[old], rows[old], positions[old])
        return rows, found

    def _positions(self, geometry: Geometry, keys: Keys) -> Positions:
        """Where the index says that the keys' records are; 0 for those it does not have."""
        entries = self._file.buckets(geometry.bucket_of(keys))
        same = (entries["key"] == keys[:, np.newaxis]).all(axis=2)
        positions: Positions = np.where(same, entries["position"], np.uint64(0)).max(axis=1)
        return positions

    def _move_up(self, keys: Keys, rows: Rows, positions: Positions) -> None:
        """Write rows again at the front, unless they were cleared or put anew meanwhile."""
        try:
            with self._lock:
                if self._closed.is_set() or not self._file.geometry.buckets:
                    return
                still = (self._positions(self._file.geometry, keys) == positions).nonzero()[0]
                # Asked for twice in one call, written once.
                once = still[np.unique(positions[still], return_index=True)[1]]
                self._append(keys[once], rows[once])
        except OSError:
            # They were found, which is what counts.
            with self._counting:
                self._errors += 1
            _log.warning("rows of %s could not be moved up", self.path, exc_info=True)

    def _drop(self, keys: Keys, positions: Positions) -> None:
        """Take entries out of the index whose records are damaged or overwritten, unless they changed meanwhile."""
        with self._lock:
            if self._closed.is_set() or not self._file.geometry.buckets:
                return
            numbers, place = np.unique(self._file.geometry.bucket_of(keys), return_inverse=True)
            entries = self._file.buckets(numbers)
            for bucket, key, position in zip(place.tolist(), keys, positions, strict=True):
                entry = entries[bucket]
                entry[(entry["key"] == key).all(axis=1) & (entry["position"] == position)] = np.zeros((), entry.dtype)
            self._file.write_buckets(numbers, entries)

    def _append(self, keys: Keys, rows: Rows) -> None:
        for some in _pieces(len(keys), rows.shape[1], self._file.geometry.ring_bytes // 8):
            self._put(keys[some], rows[some])

    def _put(self, keys: Keys, rows: Rows) -> None:
        """First the records, then the index that leads to them, then the mark: what ends early is not found."""
        file, step = self._file, stride(rows.shape[1])
        geometry = file.geometry
        position = geometry.head
        left = geometry.ring_bytes - position % geometry.ring_bytes
        fit = min(left // step, len(keys))
        if fit:
            file.write_records(position, keys[:fit], rows[:fit])
        positions = position + step * np.arange(fit, dtype=np.uint64)
        head = position + step * fit
        if fit < len(keys):  # the rest from the ring's beginning on
            head = position + left
            file.write_records(head, keys[fit:], rows[fit:])
            positions = np.append(positions, head + step * np.arange(len(keys) - fit, dtype=np.uint64))
            head += step * (len(keys) - fit)
        self._enter(keys, positions)
        file.advance(head)

    def _enter(self, keys: Keys, positions: Positions) -> None:
        numbers, place = np.unique(self._file.geometry.bucket_of(keys), return_inverse=True)
        entries = self._file.buckets(numbers)
        left = np.arange(len(keys))
        while len(left):  # one key of each bucket at a time
            _, first = np.unique(place[left], return_index=True)
            some = left[first]
            buckets = entries[place[some]]
            # Its own place, else a free one, else the oldest.
            rank = buckets["position"].astype(np.int64)
            rank[(buckets["key"] == keys[some, np.newaxis]).all(axis=2) & (rank > 0)] = -1
            way = rank.argmin(axis=1)
            entries["key"][place[some], way] = keys[some]
            entries["position"][place[some], way] = positions[some]
            left = np.delete(left, first)
        self._file.write_buckets(numbers, entries)

    def _latest(self, geometry: Geometry, most: int) -> Positions:
        """Positions of the entries written last, latest first."""
        oldest = geometry.oldest()
        best = np.zeros(0, np.uint64)
        for positions in self._file.scan(geometry, max(most // WAYS, 64)):
            best = np.append(best, positions[positions >= oldest])
            if len(best) > most:
                best = np.partition(best, len(best) - most)[-most:]
        best.sort()
        return best[::-1]


def _pieces(count: int, row_bytes: int, most_bytes: int = _PIECE_BYTES) -> Iterator[slice]:
    step = min(max(min(most_bytes, _PIECE_BYTES) // stride(row_bytes), 1), _PIECE_ROWS)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))

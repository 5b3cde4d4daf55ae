"""A process that writes numbered rows into a second level on disk, and says after each batch how many there are.

python disk_writer.py FILE LIMIT [BATCHES]
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from embank.cache.codec import Rows
from embank.cache.disk import DiskLevel
from embank.cache.keys import Keys

ROW_BYTES = 768
BATCH = 64


def keys_of(numbers: range) -> Keys:
    """A key for each number, spread as hashes are."""
    return _mixed(np.arange(2 * numbers.start, 2 * numbers.stop)).reshape(-1, 2)


def rows_of(numbers: range, row_bytes: int = ROW_BYTES) -> Rows:
    """The row that belongs to each number."""
    words = -(-row_bytes // 8)
    mixed = _mixed(np.arange(numbers.start * words, numbers.stop * words) + 10**12)
    return np.ascontiguousarray(mixed.reshape(-1, words).view(np.uint8)[:, :row_bytes])


def _mixed(numbers: npt.NDArray[np.int64]) -> Keys:
    """Each number's own 64 random-looking bits (splitmix64)."""
    bits = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return bits ^ bits >> np.uint64(31)


def say(what: object) -> None:
    """One line, at once: what was not printed before the kill was not acknowledged."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main() -> None:
    level = DiskLevel(sys.argv[1], sys.argv[2])
    batches = int(sys.argv[3]) if len(sys.argv) > 3 else 10**9
    say("writing" if level.writable else "reading")
    for batch in range(batches):
        numbers = range(batch * BATCH, (batch + 1) * BATCH)
        level.put_many(keys_of(numbers), rows_of(numbers))
        say(numbers.stop)
    sys.stdin.read()


if __name__ == "__main__":
    main()

"""A table of token vectors in a mapped file, and the means of its rows: what a static model computes.

Rows are gathered and summed a thousand at a time, so that they stay in a core's own cache and working memory is the
same for every batch; the table itself stays in the file's pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from embank.embed.engine import TokenIds
    from embank.embed.model import Vectors

    _Tensor = npt.NDArray[np.float16 | np.float32 | np.uint16]

BLOCK_ROWS = 1024
"""How many rows are gathered at once, at most."""
# Where a float16's sign, exponent and mantissa stand in a float32; between sign and exponent three bits are empty.
_FLOAT16_BITS = np.array(0x8FFFE000, dtype=np.uint32).view(np.int32)[()]
_FLOAT16_SCALE = np.float32(2.0**112)


class Table:
    """Of a tensor (tokens, columns) of finite float16, float32 or (as uint16) bfloat16 the first `dimension` columns.

    Thread-safe.
    """

    def __init__(self, tensor: _Tensor, dimension: int) -> None:
        self._dtype = np.dtype(np.int16) if tensor.dtype == np.float16 else tensor.dtype
        self._columns = tensor.shape[1]
        self._dimension = dimension
        # Of rows as opaque bytes `take` makes no copy of the whole table, wherever they lie in the file.
        self._rows = tensor.view(f"V{self.row_bytes}")[:, 0]

    @property
    def row_bytes(self) -> int:
        return int(self._columns * self._dtype.itemsize)

    def means(self, batch: Sequence[TokenIds]) -> Vectors:
        """float32 (texts, dimension): the mean of each text's rows. Fastest where texts of one length are neighbours.

        An id beyond the table takes its last row, as in WordLlama's own inference. Rows are summed in order, so that a
        text's mean does not depend on its neighbours.
        """
        block = _Block(self, np.concatenate(batch, dtype=np.intp))
        vectors = np.empty((len(batch), self._dimension), dtype=np.float32)
        lengths = list(map(len, batch))
        start = 0
        for runs in _blocks(lengths):
            stop = start + sum((last - first) * length for first, last, length in runs)
            rows = block.gathered(start, min(stop, start + BLOCK_ROWS))
            # One sum over three axes for all neighbours of one length: np.add.reduceat over the block is ten times
            # slower.
            at = 0
            for first, last, length in runs:
                end = at + (last - first) * length
                of_texts = rows[at:end].reshape(last - first, -1, self._dimension)
                np.add.reduce(of_texts, axis=1, out=vectors[first:last])
                at = end
            for more in range(start + BLOCK_ROWS, stop, BLOCK_ROWS):
                vectors[runs[0][0]] += block.gathered(more, min(stop, more + BLOCK_ROWS)).sum(axis=0)
            start = stop
        if self._dtype == np.int16:
            vectors *= _FLOAT16_SCALE
        vectors /= np.array(lengths, dtype=np.float32)[:, np.newaxis]
        return vectors


class _Block:
    """Room for a block of rows, which the next one overwrites.

    A float16 is not converted (numpy takes 2 ns for each) but becomes, by shifting its bits, the float32 that is 2^-112
    of it. Sums of these are, to the bit, 2^-112 of what sums of the converted would be: no float16 is so small that
    anything would be lost.
    """

    def __init__(self, table: Table, ids: npt.NDArray[np.intp]) -> None:
        most = min(len(ids), BLOCK_ROWS)
        self._ids = ids
        self._table = table._rows  # noqa: SLF001 — a part of it
        raw = np.empty((most, table._columns), dtype=table._dtype)  # noqa: SLF001
        self._taken = raw.view(self._table.dtype)[:, 0]
        self._raw = raw[:, : table._dimension]  # noqa: SLF001
        self._bits = np.empty(self._raw.shape, dtype=np.int32)
        self._rows = self._bits.view(np.float32)

    def gathered(self, start: int, stop: int) -> Vectors:
        """The rows of the ids from `start` to `stop`, scaled where the table is of float16."""
        count = stop - start
        raw, bits = self._raw[:count], self._bits[:count]
        self._table.take(self._ids[start:stop], out=self._taken[:count], mode="clip")
        if raw.dtype == np.int16:
            np.left_shift(raw, 13, out=bits, dtype=np.int32)
            bits &= _FLOAT16_BITS
        elif raw.dtype == np.uint16:
            np.left_shift(raw, 16, out=bits.view(np.uint32), dtype=np.uint32)
        else:
            np.copyto(self._rows[:count], raw)
        return self._rows[:count]


def _blocks(lengths: Sequence[int]) -> Iterator[list[tuple[int, int, int]]]:
    """Neighbouring runs (first text, last, their length) of at most a block of rows; or of one text with more."""
    runs: list[tuple[int, int, int]] = []
    room = BLOCK_ROWS
    first = 0
    for length, neighbours in groupby(lengths):
        end = first + sum(1 for _ in neighbours)
        while first < end:
            last = min(end, first + room // length)
            if last > first or not runs:
                last = max(last, first + 1)
                runs.append((first, last, length))
                room -= (last - first) * length
                first = last
            if first < end or room <= 0:
                yield runs
                runs, room = [], BLOCK_ROWS
    if runs:
        yield runs

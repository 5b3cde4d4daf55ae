"""How a vector is kept in the cache: float16, int8 with a scale in the row, or float32.

Covers rows of one dimension, encoded to bytes and back, and which vectors can be kept at all. A row that was decoded is
what every later hit gives, bit for bit.

float16: 2 bytes a component; for normalised vectors the error of a cosine is below 1e-3.
int8: 1 byte a component, padded to a multiple of 4, and 4 for the scale (symmetric, max |x| / 127).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from embank.errors import InvalidInput

Dtype = Literal["float16", "int8", "float32"]
Float32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.uint8]
"""shape (n, row_bytes)."""

_LEAST = {"float16": 6e-8, "int8": 1e-30, "float32": 1.5e-45}
_MOST = {"float16": 65_504.0, "int8": 3e38, "float32": float(np.finfo(np.float32).max)}
"""The largest magnitude of a row must lie between these: below, it would come back as zero, above, as infinite."""

_BLOCK = 256
"""Rows decoded at once, so that their numbers stay in the processor's cache."""

_HALF_BITS = np.int32(-0x70002000)
"""0x8FFFE000: sign, and exponent and fraction of a float16 moved up by 13 bits."""
_HALF_SCALE = np.float32(2.0**112)
"""Between the exponents' offsets, 15 and 127."""


class Codec:
    """Between float32 rows of `dimension` and rows of `row_bytes`. Immutable, thread-safe."""

    def __init__(self, dtype: str, dimension: int) -> None:
        if dtype not in get_args(Dtype):
            raise InvalidInput(f"a cache stores {', '.join(get_args(Dtype))}, not {dtype!r}", dtype=dtype)
        self.dtype = dtype
        self.dimension = dimension
        self._codes_bytes = -(-dimension // 4) * 4
        self.row_bytes = {"float16": 2 * dimension, "float32": 4 * dimension, "int8": self._codes_bytes + 4}[dtype]

    def check(self, vectors: Any) -> Float32:
        """`vectors` as float32 rows, shape (n, dimension). Raises `InvalidInput`, naming the row, for any other."""
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
            try:
                rows = np.asarray(vectors, np.float32)
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"vectors must be rows of numbers: {error}") from error
        if rows.ndim != 2 or rows.shape[1] != self.dimension:
            raise InvalidInput(
                f"vectors of this space have {self.dimension} dimensions; these have shape {rows.shape}",
                dimension=self.dimension,
                shape=rows.shape,
            )
        top = np.maximum(rows.max(axis=1), -rows.min(axis=1)) if len(rows) else np.empty(0, np.float32)
        fine = (top >= _LEAST[self.dtype]) & (top <= _MOST[self.dtype])  # false for NaN
        if not fine.all():
            row = int(np.argmin(fine))
            raise InvalidInput(
                f"vector {row} can't be kept as {self.dtype}: its largest component is {top[row]!s}, and it must be "
                f"finite and not zero",
                row=row,
            )
        return rows

    def encode(self, vectors: Float32) -> Rows:
        """Rows of what `check` let pass."""
        if self.dtype == "float16":
            return vectors.astype(np.float16).view(np.uint8)
        if self.dtype == "float32":
            return np.ascontiguousarray(vectors).view(np.uint8)
        rows = np.zeros((len(vectors), self.row_bytes), np.uint8)
        scale = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))[:, None] / np.float32(127)
        rows.view(np.int8)[:, : self.dimension] = np.rint(vectors / scale)
        rows[:, self._codes_bytes :] = scale.view(np.uint8)
        return rows

    def decode(self, rows: Rows) -> Float32:
        """float32 rows, shape (len(rows), dimension)."""
        if self.dtype == "float32":
            return rows.view(np.float32).copy()
        if self.dtype == "float16" and len(rows) == 1:
            return rows.view(np.float16).astype(np.float32)  # one call is quicker than five
        out = np.empty((len(rows), self.dimension), np.float32)
        for start in range(0, len(rows), _BLOCK):
            some, into = rows[start : start + _BLOCK], out[start : start + _BLOCK]
            if self.dtype == "float16":
                _widen(some.view(np.int16), into)
            else:
                np.multiply(some.view(np.int8)[:, : self.dimension], self._scales(some), out=into)
        return out

    def readable(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows from elsewhere are vectors at all: finite and not zero. shape (len(rows),)."""
        with np.errstate(all="ignore"):
            vectors = self.decode(rows)
            top = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))
        fine: npt.NDArray[np.bool_] = (top > 0) & (top <= _MOST[self.dtype])
        return fine

    def _scales(self, rows: Rows) -> Float32:
        return np.ascontiguousarray(rows[:, self._codes_bytes :]).view(np.float32)


def _widen(halves: npt.NDArray[np.int16], out: Float32) -> None:
    """float16 to float32 by moving bits: exact for all finite values, and four times as fast as numpy's conversion."""
    bits = out.view(np.int32)
    bits[...] = halves
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _HALF_BITS, out=bits)
    np.multiply(out, _HALF_SCALE, out=out)

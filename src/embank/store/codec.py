"""How a float32 vector is kept on disk: half precision, or one byte a component with a scale a row."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from embank.errors import InvalidInput
from embank.store.info import Dtype

Float32 = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]
"""shape (n,), one structured record a vector (`Codec.record`)."""

MOST_IN_FP16 = float(np.finfo(np.float16).max)
_KEPT_BITS = np.array(0x8FFFE000, np.uint32).view(np.int32)[()]
_REBIASED = np.float32(2.0**112)
"""From the exponent's bias of half precision, 15, to that of single precision, 127."""

_LENGTH_SLACK = 2e-3
"""How far half precision may take a unit vector's length from 1, twice over."""


class Codec:
    """Converts between float32 rows of one `dimension` and stored records.

    fp16: 2 bytes a component, of at most 65,504; for normalised vectors the error of a cosine is below 1e-3. Of other
    vectors a component is off by 1/2,048 of itself at most, and by 3e-8 where it is below 6e-5.
    int8: 1 byte a component and 4 for the row's scale (symmetric, max |x| / 127): of any size.
    """

    def __init__(self, dtype: str, dimension: int) -> None:
        if dtype not in get_args(Dtype):
            raise InvalidInput(f"vectors can be stored as {' or '.join(get_args(Dtype))}, not {dtype!r}", dtype=dtype)
        self.dtype = dtype
        self.dimension = dimension
        fields: list[tuple[str, str, tuple[int, ...]]] = (
            [("codes", "<f2", (dimension,))]
            if dtype == "fp16"
            else [("codes", "i1", (dimension,)), ("scale", "<f4", (1,))]
        )
        self.record = np.dtype(fields)

    def encode(self, vectors: Float32) -> Stored:
        """Records of float32 rows, shape (n, dimension). Values must be finite.

        Raises `InvalidInput` for what half precision can't hold.
        """
        stored = np.empty(len(vectors), self.record)
        if self.dtype == "fp16":
            with np.errstate(over="ignore"):
                stored["codes"] = vectors
            if len(vectors) and not np.isfinite(stored["codes"]).all():
                largest = float(np.abs(vectors).max())
                raise InvalidInput(
                    f"a component of {largest:g} is more than the {MOST_IN_FP16:,.0f} that fp16 can hold: divide all "
                    f"vectors by one number, or make the collection with store.dtype = int8, which scales each",
                    largest=largest,
                )
            return stored
        scale = np.abs(vectors).max(axis=1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        stored["codes"] = np.rint(vectors / scale)
        stored["scale"] = scale
        return stored

    def damaged(self, stored: Stored, *, unit: bool = True) -> npt.NDArray[np.bool_]:
        """Which records can't be those of a vector: not finite, or of a length that can't be a unit vector's.

        The length counts where all are unit vectors, up to what rounding explains.
        """
        finite: npt.NDArray[np.bool_] = np.isfinite(stored["codes"]).all(axis=1)
        if self.dtype == "int8":
            finite &= np.isfinite(stored["scale"][:, 0])
        if not unit:
            return ~finite
        with np.errstate(all="ignore"):  # what is damaged may be of any size
            rows = self.decode(stored)
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            slack = np.full(len(stored), _LENGTH_SLACK, np.float32)
            if self.dtype == "int8":  # half a step a component; the largest component of a unit vector is at most 1
                slack += np.minimum(stored["scale"][:, 0], 1 / 127) / 2 * np.float32(self.dimension**0.5)
            fits: npt.NDArray[np.bool_] = np.abs(lengths - 1) <= slack
        return ~(fits & finite)

    def decode(self, stored: Stored, out: Float32 | None = None) -> Float32:
        """float32 rows, shape (len(stored), dimension), written into `out` when it is given.

        What is not finite in half precision, as in a damaged record, comes out as some number of 65,536 or more.
        """
        rows = np.empty((len(stored), self.dimension), np.float32) if out is None else out[: len(stored)]
        if self.dtype == "int8":
            rows[...] = stored["codes"]
            rows *= stored["scale"]
            return rows
        # numpy converts half precision one number at a time. Moving sign, exponent and fraction to their places in
        # single precision, and correcting the exponent by a product, is exact and takes a quarter of the time.
        bits = rows.view(np.int32)
        bits[...] = stored["codes"].view("<i2")
        bits <<= 13
        bits &= _KEPT_BITS
        rows *= _REBIASED
        return rows

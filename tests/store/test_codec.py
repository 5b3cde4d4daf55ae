"""Storing vectors in fewer bytes."""

from __future__ import annotations

import numpy as np
import pytest

from embank.errors import InvalidInput
from embank.store.codec import Codec
from embank.testing.indexes import clustered


@pytest.mark.parametrize(("dtype", "bytes_each", "least_cosine"), [("fp16", 96, 0.999999), ("int8", 52, 0.9999)])
def test_round_trip_keeps_the_direction(dtype: str, bytes_each: int, least_cosine: float) -> None:
    vectors = clustered(500, seed=1)
    codec = Codec(dtype, vectors.shape[1])
    stored = codec.encode(vectors)
    back = codec.decode(stored)
    cosines = (back * vectors).sum(axis=1) / np.linalg.norm(back, axis=1)
    assert stored.itemsize == bytes_each
    assert back.dtype == np.float32
    assert cosines.min() >= least_cosine


def test_a_zero_row_stays_zero() -> None:
    codec = Codec("int8", 4)
    assert codec.decode(codec.encode(np.zeros((1, 4), np.float32))).tolist() == [[0, 0, 0, 0]]


def test_every_number_of_half_precision_is_decoded_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    codec = Codec("fp16", 8)
    finite = np.isfinite(every)
    stored = every.view(codec.record)
    np.testing.assert_array_equal(
        codec.decode(stored).ravel()[finite].view(np.uint32), every[finite].astype(np.float32).view(np.uint32)
    )


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_told_to_be_damaged(bad: float) -> None:
    codec = Codec("fp16", 4)
    stored = codec.encode(np.array([[1, 0, 0, 0], [0, 0, 0, 1]], np.float32))
    stored["codes"][1, 2] = bad
    assert codec.damaged(stored).tolist() == [False, True]


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(InvalidInput, match="fp16 or int8, not 'fp4'"):
        Codec("fp4", 8)

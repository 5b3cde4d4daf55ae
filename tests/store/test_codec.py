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


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(InvalidInput, match="fp16 or int8, not 'fp4'"):
        Codec("fp4", 8)

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embank.embed.engines.table import BLOCK_ROWS, Table

TOKENS, COLUMNS = 300, 32


def tensor(dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """A tensor as it stands in a file, and its values; with the smallest and the largest numbers of its type."""
    values = np.random.default_rng(1).normal(size=(TOKENS, COLUMNS)).astype(np.float32)
    values[:4, 0] = 65504.0, -65504.0, 6e-8, -6e-8
    values[4, :3] = 0.0, -0.0, 3.1e-5
    if dtype == "bfloat16":
        bits = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    stored = values.astype(dtype)
    return stored, stored.astype(np.float32)


def batch(*lengths: int) -> list[npt.NDArray[np.int32]]:
    random = np.random.default_rng(2)
    return [random.integers(0, TOKENS, length).astype(np.int32) for length in lengths]


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("dimension", [COLUMNS, 8])
def test_a_mean_is_to_the_bit_that_of_the_converted_rows(dtype: str, dimension: int) -> None:
    stored, values = tensor(dtype)
    texts = batch(*[1, 1, 7, 7, 7, 2, 500, 500, 500, 24, BLOCK_ROWS, BLOCK_ROWS - 1, 3, *[5] * 1000, 1])
    found = Table(stored, dimension).means(texts)
    expected = [np.add.reduce(values[ids, :dimension], axis=0) / np.float32(len(ids)) for ids in texts]
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array(expected))


@pytest.mark.parametrize("length", [BLOCK_ROWS + 1, 2 * BLOCK_ROWS, 5000])
def test_the_mean_of_a_long_text_is_that_of_all_its_rows(length: int) -> None:
    stored, values = tensor("float16")
    texts = batch(3, length, length, 3)
    found = Table(stored, COLUMNS).means(texts)
    expected = np.array([values[ids].mean(axis=0, dtype=np.float64) for ids in texts])
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_text_has_one_mean_whatever_stands_beside_it() -> None:
    table = Table(tensor("float16")[0], COLUMNS)
    texts = batch(*[1, 30, 30, 3000, 2, 700, 400, 30])
    alone = np.concatenate([table.means([ids]) for ids in texts])
    assert np.array_equal(table.means(texts), alone)
    assert np.array_equal(table.means(texts[::-1]), alone[::-1])


def test_a_token_beyond_the_table_takes_its_last_row() -> None:
    stored, values = tensor("float16")
    (mean,) = Table(stored, COLUMNS).means([np.array([TOKENS + 5], dtype=np.int32)])
    assert np.array_equal(mean, values[-1])


def test_rows_that_begin_at_an_odd_byte_are_read_all_the_same() -> None:
    stored, values = tensor("float16")
    unaligned = np.frombuffer(b"\0" + stored.tobytes(), np.uint8)[1:].view(np.float16).reshape(stored.shape)
    ids = np.array([3, 9], dtype=np.int32)
    (mean,) = Table(unaligned, COLUMNS).means([ids])
    assert np.array_equal(mean, values[ids].sum(axis=0) / np.float32(2))

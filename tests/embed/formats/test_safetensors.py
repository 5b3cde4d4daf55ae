from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.embed.tiny_bert import encode_safetensors

from embank.embed.formats.safetensors import SafetensorsFile
from embank.errors import ModelFileError

TENSORS: dict[str, npt.NDArray[Any]] = {
    "wide": np.arange(24, dtype=np.float32).reshape(4, 6) / 7,
    "half": np.linspace(-3, 3, 10).astype(np.float16),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "ids": np.arange(5),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    target.write_bytes(encode_safetensors(TENSORS))
    return target


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def test_views_are_the_tensors(path: Path) -> None:
    with SafetensorsFile(path) as file:
        assert set(file.entries) == set(TENSORS)
        for name in ("wide", "half", "empty"):
            view = file.view(name)
            assert view.shape == TENSORS[name].shape
            assert np.array_equal(view, TENSORS[name])
            assert not view.flags.writeable
            del view


def test_blocks_are_fresh_float32_rows(path: Path) -> None:
    with SafetensorsFile(path) as file:
        blocks = list(file.blocks("wide", 3))
        assert [block.shape for block in blocks] == [(3, 6), (1, 6)]
        assert np.array_equal(np.concatenate(blocks), TENSORS["wide"])
        blocks[0][:] = 0  # writable: a copy
        halves = np.concatenate(list(file.blocks("half", 4)))
        assert halves.dtype == np.float32
        assert np.array_equal(halves, TENSORS["half"].astype(np.float32))


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    values = np.array([0.0, 1.0, -2.5, 3.140625, 1e30, -1e-30], dtype=np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_safetensors({"b": bits}))
    with SafetensorsFile(path) as file:
        (block,) = file.blocks("b", 100)
    assert np.array_equal(block.view(np.uint32), bits.astype(np.uint32) << 16)


def test_asking_for_what_is_not_there_or_not_readable(path: Path) -> None:
    with SafetensorsFile(path) as file:
        with pytest.raises(ModelFileError, match="no tensor 'nothing'"):
            file.view("nothing")
        with pytest.raises(ModelFileError, match=r"'ids' .* is I64"):
            file.view("ids")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.safetensors can't be read"):
        SafetensorsFile(tmp_path / "gone.safetensors")


@given(st.floats(0, 1, exclude_max=True))
def test_truncated_anywhere_it_is_refused(tmp_path_factory: pytest.TempPathFactory, part: float) -> None:
    whole = encode_safetensors(TENSORS)
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ModelFileError, match=r"truncated|too short"):
        SafetensorsFile(path)


def test_bytes_after_the_last_tensor_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"xyz")
    with pytest.raises(ModelFileError, match="3 bytes after its last tensor"):
        SafetensorsFile(path)


@given(st.binary(max_size=200))
def test_no_bytes_crash_it(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        SafetensorsFile(path)


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{broken", "damaged header"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b"[" * 100_000, "damaged header"),
        ({"a": 5}, "'a' has no description"),
        ({"a": entry(dtype="F31")}, "unknown dtype 'F31'"),
        ({"a": entry(dtype=None)}, "unknown dtype None"),
        ({"a": entry(shape=[-1])}, "impossible shape"),
        ({"a": entry(shape=[2.0])}, "impossible shape"),
        ({"a": entry(shape=[True, 2])}, "impossible shape"),
        ({"a": entry(shape="22")}, "impossible shape"),
        ({"a": entry(offsets=[8, 0])}, "impossible data_offsets"),
        ({"a": entry(offsets=[0])}, "impossible data_offsets"),
        ({"a": entry(offsets=[-8, 0])}, "impossible data_offsets"),
        ({"a": entry(shape=[3])}, "spans 8 bytes, but F32 of shape"),
        ({"a": entry(), "b": entry(offsets=[4, 12])}, "'b' overlaps"),
        ({"a": entry(), "b": entry(offsets=[0, 8])}, "overlaps"),
        ({"a": entry(offsets=[8, 16])}, "leaves a gap"),
        ({"a": entry(shape=[4], offsets=[0, 16])}, "'a' ends at byte .* truncated"),
        ({"a": entry(shape=[1 << 62, 4], offsets=[0, 1 << 66])}, "truncated"),
    ],
)
def test_headers_that_break_a_rule(tmp_path: Path, header: Any, message: str) -> None:
    path = write(tmp_path / "bad.safetensors", header, b"\0" * 8)
    with pytest.raises(ModelFileError, match=message) as caught:
        SafetensorsFile(path)
    assert caught.value.fields["path"] == str(path)


def test_a_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelFileError, match="header claims"):
        SafetensorsFile(path)

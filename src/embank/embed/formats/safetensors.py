"""Reading safetensors files through a memory map.

Covers the format's header rules, all of them checked before a byte of data is used, and reading a tensor as float32 in
blocks of rows. Does not write, and does not copy a whole tensor: views are file pages, which the kernel can take back.
Format: https://github.com/huggingface/safetensors#format (a little-endian length, a JSON header, then the data).
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from embank.errors import ModelFileError

if TYPE_CHECKING:
    import numpy.typing as npt

_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
}  # fmt: skip
# What can be read as float32 here; other types may stand in the file but not be asked for.
_READABLE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_LONGEST_HEADER = 100 << 20  # the format's own limit


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: `start` and `stop` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """An open, validated file. Reading is thread-safe; `close` is not, while views are in use.

    Raises `ModelFileError` on opening when the file is missing, truncated, or its header breaks a rule of the format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._size = file.seek(0, 2)
                file.seek(0)
                data_start, header = _read_header(path, file.read(8), self._size, file)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelFileError(f"{path} can't be read: {error.strerror or error}", path=str(path)) from error
        try:
            self.entries = _checked_entries(path, header, data_start, self._size)
        except ModelFileError:
            self._map.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def close(self) -> None:
        """Unmap the file. Views that are still alive keep the mapping until they go."""
        with contextlib.suppress(BufferError):  # a numpy view still has it; the mapping goes with the last of them
            self._map.close()

    def view(self, name: str) -> npt.NDArray[Any]:
        """The tensor as a read-only view of the mapping, in the file's own dtype (BF16 as its uint16 bits)."""
        entry = self.entries.get(name)
        if entry is None:
            raise ModelFileError(f"{self.path} has no tensor {name!r}", path=str(self.path), tensor=name)
        dtype = _READABLE.get(entry.dtype)
        if dtype is None:
            raise ModelFileError(
                f"tensor {name!r} of {self.path} is {entry.dtype}; readable are {', '.join(_READABLE)}",
                path=str(self.path),
                tensor=name,
            )
        count = math.prod(entry.shape)
        flat: npt.NDArray[Any] = np.frombuffer(self._map, dtype=dtype, count=count, offset=entry.start)
        return flat.reshape(entry.shape)

    def blocks(self, name: str, rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """The tensor as fresh float32 arrays of at most `rows` rows each (a vector counts its elements as rows)."""
        view = self.view(name)
        for start in range(0, view.shape[0], rows):
            yield self._widened(name, view[start : start + rows])

    def columns(self, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Some columns of a matrix, as a fresh float32 array of shape (rows, columns)."""
        return self._widened(name, self.view(name)[:, start:stop])

    def _widened(self, name: str, part: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return float32_of_bfloat16(part) if self.entries[name].dtype == "BF16" else part.astype(np.float32)


def float32_of_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """A bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _read_header(path: Path, length_field: bytes, size: int, file: IO[bytes]) -> tuple[int, dict[str, Any]]:
    if len(length_field) < 8:
        raise ModelFileError(f"{path} is no safetensors file: {size} bytes, too short for a header", path=str(path))
    length = int.from_bytes(length_field, "little")
    if length > _LONGEST_HEADER or 8 + length > size:
        raise ModelFileError(
            f"{path} is truncated or no safetensors file: its header claims {length} bytes of a file of {size}",
            path=str(path),
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_refuse_repeated)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} has a damaged header: {error}", path=str(path)) from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path} has a damaged header: not a JSON object", path=str(path))
    header.pop("__metadata__", None)
    return 8 + length, header


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _checked_entries(path: Path, header: dict[str, Any], data_start: int, size: int) -> dict[str, TensorEntry]:
    entries = [_checked_entry(path, name, fields, data_start) for name, fields in header.items()]
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    position = data_start
    for entry in entries:
        if entry.start != position:
            problem = "overlaps the one before" if entry.start < position else f"leaves a gap from byte {position}"
            _refuse(path, entry.name, f"{problem} (it starts at byte {entry.start})")
        if entry.stop > size:
            _refuse(path, entry.name, f"ends at byte {entry.stop} of a file of {size}: the file is truncated")
        position = entry.stop
    if position != size:
        raise ModelFileError(f"{path} has {size - position} bytes after its last tensor", path=str(path))
    return {entry.name: entry for entry in entries}


def _checked_entry(path: Path, name: str, fields: Any, data_start: int) -> TensorEntry:
    if not isinstance(fields, dict):
        _refuse(path, name, "has no description")
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if dtype not in _ITEM_BYTES:
        _refuse(path, name, f"has the unknown dtype {dtype!r}")
    if not _are_sizes(shape):
        _refuse(path, name, f"has the impossible shape {shape!r}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, name, f"has the impossible data_offsets {offsets!r}")
    start, stop = offsets
    wanted = math.prod(shape) * _ITEM_BYTES[dtype]
    if stop - start != wanted:
        _refuse(path, name, f"spans {stop - start} bytes, but {dtype} of shape {shape} takes {wanted}")
    return TensorEntry(name, dtype, tuple(shape), data_start + start, data_start + stop)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _refuse(path: Path, name: str, problem: str) -> NoReturn:
    raise ModelFileError(f"{path}: tensor {name!r} {problem}", path=str(path), tensor=name)

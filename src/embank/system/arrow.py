"""Parquet files, read in bounded memory. The one file, beside the writer of exports, that works with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embank.errors import MissingExtra, SourceError

MAX_BATCH_ROWS = 256
_BATCH_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 16


def require() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`; `MissingExtra` where they are not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    return pa, pq


def open_parquet(path: Path, *, name: str) -> Any:
    """A `pyarrow.parquet.ParquetFile`, to be closed. `SourceError` calls the file `name`."""
    arrow, parquet = require()
    try:
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{name} is no whole Parquet file: {error}", path=name) from error


def batches(file: Any, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """The rows in the file's order, in record batches of about 4 MiB at most, of some columns or of all.

    Raises `pyarrow.ArrowException` or OSError where the file can't be read on. Afterwards memory is given back.
    """
    arrow, _ = require()
    try:
        for group in range(file.num_row_groups):
            rows = _batch_rows(file, group)
            yield from file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
    finally:
        arrow.default_memory_pool().release_unused()


def _batch_rows(file: Any, group: int) -> int:
    """So many rows of a row group that about `_BATCH_BYTES` are in memory at once."""
    told = file.metadata.row_group(group)
    row_bytes = max(int(told.total_byte_size) // max(int(told.num_rows), 1), 1)
    return min(max(_BATCH_BYTES // row_bytes, 1), MAX_BATCH_ROWS)

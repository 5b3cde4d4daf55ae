"""Exports as Parquet. The one file of this room that works with pyarrow.

Columns: `id`, `text`, `metadata` (JSON), `passages` (a list of start and end), and with vectors `digest` and `vectors`
(a list of records as they are stored). The head is in the file's metadata, under "embank". Row groups are as large as
the caller makes them, and are written and read one batch at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from embank.errors import SourceError
from embank.system.arrow import batches, open_parquet, require
from embank.transfer.form import DIGEST_BYTES, BadRow, Head, Item, WrongValue, item, read_head

MAGIC = b"PAR1"
_KEY = b"embank"


class ParquetWriter:
    """Writes to a binary stream. Every `add` makes one row group."""

    def __init__(self, head: Head, sink: BinaryIO) -> None:
        self._arrow, parquet = require()
        self._head = head
        self._schema = _schema(self._arrow, head)
        self._writer = parquet.ParquetWriter(
            sink, self._schema, compression="zstd", use_dictionary=False, write_statistics=["id"]
        )

    def add(self, items: Sequence[Item]) -> None:
        """Write some rows."""
        if not items:
            return
        columns: dict[str, list[Any]] = {
            "id": [each.document.id for each in items],
            "text": [each.document.text for each in items],
            "metadata": [json.dumps(each.document.metadata, ensure_ascii=False, allow_nan=False) for each in items],
            "passages": [[{"start": chunk.start, "end": chunk.end} for chunk in each.chunks] for each in items],
        }
        if self._head.vectors:
            columns["digest"] = [each.digest for each in items]
            columns["vectors"] = [
                [] if each.records is None else [record.tobytes() for record in each.records] for each in items
            ]
        self._writer.write_batch(self._arrow.RecordBatch.from_pydict(columns, schema=self._schema))

    def close(self) -> None:
        """Write the end of the file, without which it can't be read."""
        self._writer.close()
        self._arrow.default_memory_pool().release_unused()


class ParquetReader:
    """Reads rows as often as wanted; `name` is what errors call the file."""

    def __init__(self, path: Path, *, name: str) -> None:
        self._arrow, _ = require()
        self._name = name
        self._done = 0
        self._file = open_parquet(path, name=name)
        schema = self._file.schema_arrow
        try:
            values = json.loads((schema.metadata or {}).get(_KEY, b"null"))
        except ValueError as error:
            raise SourceError(f"{name} is no whole Parquet file: {error}", path=name) from error
        self.head = read_head(values, name=name)
        if not schema.remove_metadata().equals(_schema(self._arrow, self.head).remove_metadata()):
            self.close()
            raise SourceError(f"{name} has other columns than an export has: {', '.join(schema.names)}", path=name)

    @property
    def fraction(self) -> float:
        """How much of the file is read, 0 to 1."""
        return min(self._done / max(int(self._file.metadata.num_rows), 1), 1.0)

    def rows(self) -> Iterator[Item | BadRow]:
        """Every row in the file's order. Raises `SourceError` where the file can't be read on."""
        self._done = 0
        try:
            for batch in batches(self._file):
                yield from self._batch(batch)
        except (self._arrow.ArrowException, OSError) as error:
            raise SourceError(f"{self._name} can't be read behind row {self._done:,}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _batch(self, batch: Any) -> Iterator[Item | BadRow]:
        for row in range(batch.num_rows):
            self._done += 1
            try:
                yield self._item(batch, row)
            except WrongValue as error:
                yield BadRow(f"row {self._done:,}", error.column, error.problem)

    def _item(self, batch: Any, row: int) -> Item:
        values: dict[str, Any] = {}
        for name in batch.schema.names:
            try:
                values[name] = batch.column(name)[row].as_py()
            except UnicodeDecodeError as error:
                raise WrongValue(name, "not UTF-8") from error
        try:
            values["metadata"] = json.loads(values["metadata"] or "null")
        except (ValueError, RecursionError) as error:
            raise WrongValue("metadata", f"not JSON: {error}") from error
        passages = values["passages"]
        if passages is not None:
            values["passages"] = [[each["start"], each["end"]] if each else None for each in passages]
        records = values.get("vectors")
        if records is not None and None in records:
            raise WrongValue("vectors", "one is missing")
        return item(self.head, values, records, values.get("digest"))


def _schema(arrow: Any, head: Head) -> Any:
    place = arrow.struct([("start", arrow.int32()), ("end", arrow.int32())])
    fields = [
        arrow.field("id", arrow.string(), nullable=False),
        arrow.field("text", arrow.string(), nullable=False),
        arrow.field("metadata", arrow.string(), nullable=False),
        arrow.field("passages", arrow.list_(place), nullable=False),
    ]
    codec = head.codec()
    if codec is not None:
        fields += [
            arrow.field("digest", arrow.binary(DIGEST_BYTES), nullable=False),
            arrow.field("vectors", arrow.list_(arrow.binary(codec.record.itemsize)), nullable=False),
        ]
    return arrow.schema(fields, metadata={_KEY: json.dumps(head.as_dict(), ensure_ascii=False).encode()})

"""The rows of a Parquet file, some columns of it, a few rows at a time.

The rules are those of JSON lines (`rows`), with columns for keys. Since every row has every column, a value that is
missing is left out of the metadata. Times become ISO 8601 text, durations seconds, decimals numbers.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import os
import uuid
from collections.abc import Iterator
from typing import Any

from embank.errors import SourceError
from embank.records import Document
from embank.source.report import OnSkip, SourceReport
from embank.source.rows import Bad, document_of, resolved_file
from embank.source.settings import Settings
from embank.system.arrow import batches, open_parquet, require


class ParquetRows:
    """The rows of a Parquet file. Follows `Source`; needs the extra `parquet`.

    Columns are `source.text_key`, `id_key`, `metadata_key` (a mapping, or JSON of one) and those of `source.columns`,
    else all others. Raises `MissingExtra`, and `SourceError` where the file is missing or none, lacks a column, or has
    one of a type that can't be used.
    """

    def __init__(
        self, path: str | os.PathLike[str], settings: Settings | None = None, *, on_skip: OnSkip | None = None
    ) -> None:
        self._arrow, _ = require()
        self._settings = settings or Settings()
        self._on_skip = on_skip
        self._path = resolved_file(path, what="Parquet")
        self._report = SourceReport()
        file = open_parquet(self._path, name=str(self._path))
        try:
            self._columns = self._chosen(file.schema_arrow)
        finally:
            file.close()

    @property
    def root(self) -> str:
        """`parquet:` and the file's URI, links resolved."""
        return f"parquet:{self._path.as_uri()}"

    @property
    def report(self) -> SourceReport:
        """Counts of the present (or the last) iteration; `items` are rows."""
        return self._report

    @property
    def bytes_total(self) -> int | None:
        """The file's size."""
        return self._path.stat().st_size or None

    def documents(self) -> Iterator[Document]:
        """Stream the rows in the file's order. Ids that occur twice are passed on."""
        self._report = SourceReport()
        return self._stream(self._report)

    def _stream(self, report: SourceReport) -> Iterator[Document]:
        file = open_parquet(self._path, name=str(self._path))
        try:
            size, total = self._path.stat().st_size, max(int(file.metadata.num_rows), 1)
            for batch in self._batches(file, report):
                for row in range(batch.num_rows):
                    report.items += 1
                    found = self._row(batch, row)
                    if isinstance(found, Bad):
                        place = f"{self._path.name}:{report.items}"
                        report.skip(place, found.reason, found.detail, then=self._on_skip)
                        continue
                    report.documents += 1
                    yield found
                report.bytes_done = size * report.items // total
        finally:
            file.close()

    def _batches(self, file: Any, report: SourceReport) -> Iterator[Any]:
        """Batches as long as the file can be read; where it can't, that is the last skip."""
        try:
            for batch in batches(file, self._columns):
                yield self._in_microseconds(batch)
        except (self._arrow.ArrowException, OSError) as error:
            place = f"{self._path.name}:{report.items + 1}"
            report.skip(place, "unreadable", f"the rest from here on: {error}", then=self._on_skip)

    def _row(self, batch: Any, row: int) -> Document | Bad:
        settings = self._settings
        values: dict[str, Any] = {}
        for name in batch.schema.names:
            try:
                value = _plain(batch.column(name)[row].as_py())
                if name == settings.metadata_key and isinstance(value, str):
                    value = json.loads(value, parse_constant=_refused)
            except UnicodeDecodeError as error:
                return Bad("undecodable", f"{name!r} is not UTF-8 at byte {error.start:,}")
            except (ValueError, RecursionError) as error:
                return Bad("bad value", f"{name!r}: {error}")
            if value is not None:
                values[name] = value
        text = values.get(settings.text_key)
        if isinstance(text, str) and len(text) > settings.line_bytes:
            limit = f"source.max_line_bytes = {settings.line_bytes:,}"
            return Bad("oversized", f"{settings.text_key!r} has {len(text):,} characters, more than {limit}")
        return document_of(values, settings)

    def _in_microseconds(self, batch: Any) -> Any:
        """Python's times know no nanoseconds."""
        arrow = self._arrow
        columns = []
        for column in batch.columns:
            kind, types = column.type, arrow.types
            wanted = None
            if types.is_timestamp(kind) and kind.unit == "ns":
                wanted = arrow.timestamp("us", kind.tz)
            elif types.is_time64(kind) and kind.unit == "ns":
                wanted = arrow.time64("us")
            elif types.is_duration(kind) and kind.unit == "ns":
                wanted = arrow.duration("us")
            columns.append(column if wanted is None else column.cast(wanted, safe=False))
        return arrow.RecordBatch.from_arrays(columns, batch.schema.names)

    # --- columns ---

    def _chosen(self, schema: Any) -> list[str]:
        settings, name = self._settings, self._path.name
        own = (settings.text_key, settings.id_key, settings.metadata_key)
        there = ", ".join(schema.names)
        if len(set(schema.names)) < len(schema.names):
            raise SourceError(f"{name} has two columns of one name: {there}", path=str(self._path))
        if settings.text_key not in schema.names:
            raise SourceError(
                f"{name} has no column {settings.text_key!r} (source.text_key): there are {there}", path=str(self._path)
            )
        missing = [column for column in settings.columns if column not in schema.names]
        if missing:
            told = ", ".join(missing)
            raise SourceError(f"{name} has no column {told} (source.columns): there are {there}", path=str(self._path))
        chosen = [
            column for column in schema.names if column in own or not settings.columns or column in settings.columns
        ]
        for column in chosen:
            self._check(column, schema.field(column).type)
        return chosen

    def _check(self, column: str, kind: Any) -> None:
        settings, types = self._settings, self._arrow.types
        value = kind.value_type if types.is_dictionary(kind) else kind
        if column == settings.text_key and not self._is_text(value):
            problem = "texts are strings: name the column in source.text_key"
        elif column == settings.id_key and not (self._is_text(value) or types.is_integer(value)):
            problem = "ids are strings or whole numbers: name the column in source.id_key"
        elif not self._fits(kind):
            problem = "metadata can't hold that: name the columns to keep in source.columns"
        else:
            return
        raise SourceError(f"{self._path.name}: column {column!r} is {kind}, and {problem}", path=str(self._path))

    def _is_text(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

    def _fits(self, kind: Any) -> bool:
        """Whether values of that type can be metadata."""
        types = self._arrow.types
        if isinstance(kind, self._arrow.BaseExtensionType):
            return kind.extension_name == "arrow.uuid" or self._fits(kind.storage_type)
        if types.is_dictionary(kind):
            return self._fits(kind.value_type)
        if types.is_struct(kind):
            return all(self._fits(kind.field(number).type) for number in range(kind.num_fields))
        if types.is_map(kind):
            return self._is_text(kind.key_type) and self._fits(kind.item_type)
        if types.is_nested(kind):
            return hasattr(kind, "value_type") and self._fits(kind.value_type)
        simple = (
            *(types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_decimal),
            *(types.is_date, types.is_time, types.is_timestamp, types.is_duration),
        )
        return self._is_text(kind) or any(is_kind(kind) for is_kind in simple)


def _plain(value: Any) -> Any:
    """A value as JSON has it; `ValueError` for one that can't be."""
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):  # how a map comes
            return {key: _plain(each) for key, each in value}
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, decimal.Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    elif isinstance(value, dt.date | dt.time):  # a datetime is a date
        value = value.isoformat()
    elif isinstance(value, dt.timedelta):
        value = value.total_seconds()
    elif isinstance(value, uuid.UUID):
        value = str(value)
    return value


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not a finite number")

"""Exports as JSON lines, plain or gzip: the head, a line for each document, and an end that tells how many there were.

Binary values (digests, vectors) are base64. Without its end a file was cut short, and is refused.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NoReturn, cast

from embank.errors import InvalidInput, SourceError
from embank.transfer.form import BadRow, Head, Item, WrongValue, item, read_head

MAX_LINE_BYTES = 64 << 20
"""More than a text of the greatest size takes with ten thousand vectors."""

_END = "embank_end"
_GZIP = b"\x1f\x8b"


class LineWriter:
    """Writes rows with `write`, which is given pieces of bytes."""

    def __init__(self, head: Head, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._documents = 0
        self._passages = 0
        write(_line(head.as_dict()))

    def add(self, items: Sequence[Item]) -> None:
        """Write some rows."""
        for each in items:
            line = _line(_row(each))
            if len(line) > MAX_LINE_BYTES:
                raise InvalidInput(
                    f"document {each.document.id!r} with its vectors takes {len(line):,} bytes, and a line has at most "
                    f"{MAX_LINE_BYTES:,}: export to Parquet, or without vectors",
                    id=each.document.id,
                )
            self._write(line)
            self._documents += 1
            self._passages += len(each.chunks)

    def close(self) -> None:
        """Write the end."""
        self._write(_line({_END: {"documents": self._documents, "passages": self._passages}}))


class LineReader:
    """Reads rows from a seekable `stream`, as often as wanted; `name` is what errors call it."""

    def __init__(self, stream: BinaryIO, *, name: str) -> None:
        self._stored = stream
        self._name = name
        self._size = max(stream.seek(0, 2), 1)
        try:
            values = _parsed(next(self._lines(), b""))
        except WrongValue:
            values = {}
        self.head = read_head(values, name=name)

    @property
    def fraction(self) -> float:
        """How much of the file is read, 0 to 1."""
        return min(self._stored.tell() / self._size, 1.0)

    def rows(self) -> Iterator[Item | BadRow]:
        """Every row in the file's order. Raises `SourceError` at the end of a file that was cut short."""
        documents = passages = bad = 0
        lines = self._lines()
        next(lines, None)
        for number, line in enumerate(lines, start=2):
            place = f"line {number:,}"
            try:
                values = _parsed(line)
                if set(values) == {_END}:
                    self._check_end(values[_END], documents, passages, bad=bad)
                    if next(lines, None) is not None:
                        raise SourceError(f"{self._name} goes on behind its end", path=self._name)
                    return
                row = self._item(values)
            except WrongValue as error:
                bad += 1
                yield BadRow(place, error.column, error.problem)
                continue
            documents += 1
            passages += len(row.chunks)
            yield row
        raise SourceError(f"{self._name} was cut short: its last line is missing; export it anew", path=self._name)

    def close(self) -> None:
        """Close the stream."""
        self._stored.close()

    def _lines(self) -> Iterator[bytes]:
        self._stored.seek(0)
        zipped = self._stored.read(2) == _GZIP
        self._stored.seek(0)
        stream = cast("BinaryIO", gzip.GzipFile(fileobj=self._stored)) if zipped else self._stored
        number = 0
        while True:
            number += 1
            try:
                line = stream.readline(MAX_LINE_BYTES + 1)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise SourceError(f"{self._name} is damaged or cut short at line {number:,}: {error}") from error
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise SourceError(f"{self._name}, line {number:,} is longer than {MAX_LINE_BYTES:,} bytes")
            yield line

    def _item(self, values: dict[str, Any]) -> Item:
        if not self.head.vectors:
            return item(self.head, values, None, None)
        given, digest = values.get("vectors"), values.get("digest")
        if not isinstance(given, list):
            raise WrongValue("vectors", "is no list")
        return item(self.head, values, [_bytes(each, "vectors") for each in given], _bytes(digest, "digest"))

    def _check_end(self, told: object, documents: int, passages: int, *, bad: int) -> None:
        if not bad and told != {"documents": documents, "passages": passages}:
            raise SourceError(
                f"{self._name} was altered or cut: it has {documents:,} documents with {passages:,} passages, and "
                f"its end tells {told}",
                path=self._name,
            )


def zipped(write: Callable[[bytes], object]) -> gzip.GzipFile:
    """A gzip stream over a function that writes pieces; without a time, so that equal content is equal bytes."""
    return gzip.GzipFile(fileobj=cast("Any", _Sink(write)), mode="wb", mtime=0, compresslevel=6)


class _Sink:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, piece: bytes) -> int:
        self._write(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Everything is written at once."""


def _row(each: Item) -> dict[str, Any]:
    document = each.document
    row: dict[str, Any] = {
        "id": document.id,
        "text": document.text,
        "metadata": document.metadata,
        "passages": [[chunk.start, chunk.end] for chunk in each.chunks],
    }
    if each.records is not None:
        row["digest"] = _base64([each.digest])[0]
        row["vectors"] = _base64(record.tobytes() for record in each.records)
    return row


def _line(values: object) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode(), parse_constant=_refused)
    except UnicodeDecodeError as error:
        raise WrongValue(f"byte {error.start + 1:,}", "not UTF-8") from error
    except json.JSONDecodeError as error:
        raise WrongValue(f"column {error.pos + 1:,}", f"not JSON: {error.msg}") from error
    except RecursionError as error:
        raise WrongValue("the whole", "nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise WrongValue("the whole", f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise WrongValue("the whole", "not an object")
    return values


def _refused(constant: str) -> NoReturn:
    raise WrongValue("metadata", f"{constant} is not a finite number")


def _base64(pieces: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(each).decode() for each in pieces]


def _bytes(value: object, column: str) -> bytes:
    if not isinstance(value, str):
        raise WrongValue(column, "is no base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WrongValue(column, f"is no base64: {error}") from error

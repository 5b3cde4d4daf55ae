"""JSON lines: one object a line, each a document; plain or gzip, from a file or standard input.

A row is an object (see `rows`). One that can't be used is a counted skip with its line number; the rest goes on.
Constant memory: one line at a time, bounded.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, NoReturn, cast

from embank.errors import SourceError
from embank.records import Document
from embank.source.report import OnSkip, SourceReport
from embank.source.rows import Bad, document_of, kind_of, resolved_file
from embank.source.settings import Settings

STANDARD_INPUT = "-"
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"
_DISCARD_BYTES = 1 << 16


class JsonLines:
    """The rows of a JSON lines file. Follows `Source`.

    `path` is a file (gzip is known by its first bytes) or "-" for standard input, which can be read once. Raises
    `SourceError` when it is missing, a folder, unreadable from the start, or UTF-16/32.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        on_skip: OnSkip | None = None,
        standard_input: BinaryIO | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._on_skip = on_skip
        self._standard_input = standard_input
        self._path = None if os.fspath(path) == STANDARD_INPUT else resolved_file(path, what="JSON lines")
        self._report = SourceReport()

    @property
    def root(self) -> str:
        """`jsonl:` and the file's URI, links resolved; `jsonl:-` for standard input."""
        return f"jsonl:{STANDARD_INPUT if self._path is None else self._path.as_uri()}"

    @property
    def report(self) -> SourceReport:
        """Counts of the present (or the last) iteration; `items` are lines that are not blank."""
        return self._report

    @property
    def bytes_total(self) -> int | None:
        """The file's size as stored; `None` for standard input and pipes."""
        if self._path is None:
            return None
        return (self._path.stat().st_size if self._path.is_file() else 0) or None

    def documents(self) -> Iterator[Document]:
        """Stream the rows in the file's order. Ids that occur twice are passed on."""
        self._report = SourceReport()
        return self._stream(self._report)

    def _stream(self, report: SourceReport) -> Iterator[Document]:
        name = STANDARD_INPUT if self._path is None else self._path.name
        with ExitStack() as open_files:
            raw, lines = self._open(open_files)
            for number, line in self._lines(raw, lines, report):
                if isinstance(line, bytes) and not line.strip():
                    continue
                report.items += 1
                row = self._row(line) if isinstance(line, bytes) else line
                if isinstance(row, Bad):
                    report.skip(f"{name}:{number}", row.reason, row.detail, then=self._on_skip)
                    continue
                report.documents += 1
                yield row

    def _open(self, open_files: ExitStack) -> tuple[BinaryIO, BinaryIO]:
        """The stream as stored, for the position in it, and the stream of lines."""
        if self._path is None:
            raw = self._standard_input or sys.stdin.buffer
        else:
            try:
                raw = open_files.enter_context(self._path.open("rb"))
            except OSError as error:
                raise SourceError(f"{self._path} can't be read: {error.strerror}", path=str(self._path)) from error
        stored = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", raw))
        head = stored.peek(4)
        if head.startswith(_OTHER_MARKS):
            raise SourceError(f"{self._path or 'standard input'} is UTF-16 or UTF-32; JSON lines must be UTF-8")
        if head.startswith(_GZIP):
            return stored, cast("BinaryIO", open_files.enter_context(gzip.GzipFile(fileobj=stored)))
        return stored, stored

    def _lines(self, raw: BinaryIO, lines: BinaryIO, report: SourceReport) -> Iterator[tuple[int, bytes | Bad]]:
        """Numbered lines from 1. An overlong one is passed over; where reading itself fails, that is the last."""
        limit = self._settings.line_bytes
        positioned = raw is not lines and raw.seekable()
        number = 0
        while True:
            number += 1
            try:
                line = lines.readline(limit + 1)
                size = len(line)
                oversized = size > limit and not line.endswith(b"\n")
                while oversized and (rest := lines.readline(_DISCARD_BYTES)):
                    size += len(rest)
                    if rest.endswith(b"\n"):
                        break
            except (OSError, EOFError, zlib.error) as error:
                yield number, Bad("unreadable", f"the rest from here on: {error}")
                return
            if not line:
                return
            if raw is lines:
                report.bytes_done += size
            elif positioned:
                report.bytes_done = raw.tell()
            if oversized:
                yield number, Bad("oversized", f"{size:,} bytes, more than source.max_line_bytes = {limit:,}")
            else:
                yield number, line.removeprefix(_UTF8_MARK) if number == 1 else line

    def _row(self, line: bytes) -> Document | Bad:
        """One line's document, or why there is none."""
        try:
            row = json.loads(line.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
        except UnicodeDecodeError as error:
            return Bad("undecodable", f"not UTF-8 at byte {error.start:,} of the line")
        except _NotFiniteError as error:
            return Bad("bad value", f"{error} is not a finite number")
        except (ValueError, RecursionError) as error:
            return Bad("broken line", f"not JSON: {error}" if isinstance(error, ValueError) else "nested too deeply")
        if not isinstance(row, dict):
            return Bad("broken line", f"not an object but {kind_of(row)}")
        if b"\\u" in line and not _encodable(row):
            return Bad("bad value", "half of a surrogate pair")
        return document_of(row, self._settings)


class _NotFiniteError(Exception):
    """Raised while a line is parsed, to end it; never leaves this file."""


def _refuse(constant: str) -> NoReturn:
    raise _NotFiniteError(constant)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):  # 1e999
        raise _NotFiniteError(number[:40])
    return value


def _encodable(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

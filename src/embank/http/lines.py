"""Bodies of one JSON object a line, of any length: kept in a file, read back line by line, and as a source."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, StrictStr, ValidationError

from embank.client.schemas import Asked
from embank.errors import InvalidInput
from embank.pipeline import OnSkip
from embank.records import Document
from embank.source.report import SourceReport

T = TypeVar("T", bound=Asked)

_LINE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it came, and its number from 1."""

    number: int
    content: bytes

    def read_as(self, kind: type[T]) -> T:
        """What it says. Raises `InvalidInput`, which names the line."""
        try:
            return kind.model_validate(json.loads(self.content))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InvalidInput(
                f"line {self.number} is no document: {place} {first['msg']}", line=self.number
            ) from error
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"line {self.number} is no JSON: {error}", line=self.number) from error


class Lines:
    """Written whole, then gone through by one thread at a time; `bytes_done` of `bytes_total` are behind it."""

    def __init__(self, folder: Path) -> None:
        # Beside the bank's own files, so that it is on a disk with room; unnamed, so that no crash leaves it behind.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 -- closed by `close`
        self.bytes_total = 0
        self.bytes_done = 0

    def write(self, piece: bytes) -> None:
        self._file.write(piece)
        self.bytes_total += len(piece)

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Line]:
        """All but the blank ones. Raises `InvalidInput` at one that is too long."""
        self._file.seek(0)
        self.bytes_done = number = 0
        while content := self._file.readline(_LINE_BYTES + 1):
            number += 1
            self.bytes_done += len(content)
            if len(content) > _LINE_BYTES:
                raise InvalidInput(f"line {number} has more than {_LINE_BYTES} bytes", line=number)
            if content.strip():
                yield Line(number, content)


class SentLine(Asked):
    """A line of a source: a document, or an item that gave none."""

    id: StrictStr = ""
    text: StrictStr = ""
    metadata: dict[str, Any] = Field(default_factory=dict)
    origin: StrictStr | None = None
    skip: tuple[StrictStr, StrictStr, StrictStr] | None = None


class SentSource:
    """A source that the caller has read, as lines: the `Source` protocol. Skips come in their places among them."""

    def __init__(self, root: str, lines: Lines, on_skip: OnSkip) -> None:
        self._lines = lines
        self._on_skip: Callable[[str, str, str], None] = on_skip
        self._report = SourceReport()
        self.root = root

    @property
    def bytes_total(self) -> int:
        return self._lines.bytes_total

    @property
    def report(self) -> SourceReport:
        self._report.bytes_done = self._lines.bytes_done
        return self._report

    def documents(self) -> Iterator[Document]:
        self._report = SourceReport()
        for line in self._lines:
            sent = line.read_as(SentLine)
            if sent.skip is not None:
                self._on_skip(*sent.skip)
                continue
            self._report.documents += 1
            yield Document(sent.id, sent.text, sent.metadata, sent.origin)

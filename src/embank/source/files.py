"""Text, Markdown, HTML and PDF files: a folder of them, or a single one.

A file's document id is its POSIX path relative to the folder (a single file's: its name). Text beyond
`max_document_bytes` is streamed into `path#part=1`, `path#part=2`, …. A file whose own name ends like a part's gets
`#file` at the end of its id, so that no two ids can meet: an id that ends with `#part=N` is a part, always.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from embank.errors import SourceError
from embank.records import Document
from embank.source.content import content
from embank.source.decode import NotText
from embank.source.parts import cut
from embank.source.report import OnSkip, Reason, SourceReport
from embank.source.settings import Settings
from embank.source.walk import FolderWalk, Found, is_bank

COUNTED_FILES = 20_000
"""Beyond so many files `bytes_total` gives up: an estimate must stay cheap."""

_LIKE_A_PART = re.compile(r"#part=\d+(#file)*\Z")

Opener = Callable[[str], BinaryIO]


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; never waits, should a pipe have taken its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        stream = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    if not regular:
        stream.close()
        raise OSError(f"no longer a regular file: {path}")
    return stream


class TextFiles:
    """The text files below a folder, or one file. Follows `Source`.

    A single file is read whatever the globs and ignore rules say: it was asked for by name. `opener` opens each file
    (replaced in tests). Raises `SourceError` when `path` is missing, is no file or folder, or is a bank.

    Metadata: `path`, `title` (Markdown's first heading, where there is one), `part` (of a file cut into parts) and
    `encoding` (where not UTF-8). No times: a touched file is not a changed document.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        settings: Settings | None = None,
        on_skip: OnSkip | None = None,
        opener: Opener = open_regular,
    ) -> None:
        self._settings = settings or Settings()
        self._on_skip = on_skip
        self._opener = opener
        self._path, self._is_folder = _resolved(path)
        self._report = SourceReport()
        self._bytes_total: int | None = None
        self._counted = False

    @property
    def root(self) -> str:
        """The folder's (or the single file's) URI, links resolved."""
        return self._path.as_uri()

    @property
    def report(self) -> SourceReport:
        """Counts of the present (or the last) iteration."""
        return self._report

    @property
    def bytes_total(self) -> int | None:
        """The sizes of the files to read, found by a walk of its own; `None` beyond 20,000 files."""
        if not self._counted:
            sizes = [found.size_bytes for found in itertools.islice(self._found(_quietly), COUNTED_FILES + 1)]
            self._bytes_total = sum(sizes) if len(sizes) <= COUNTED_FILES else None
            self._counted = True
        return self._bytes_total

    def documents(self) -> Iterator[Document]:
        """Stream the documents, folder by folder, sorted by name."""
        self._report = SourceReport()
        return self._stream(self._report)

    def _stream(self, report: SourceReport) -> Iterator[Document]:
        def skip(origin: str, reason: Reason, detail: str) -> None:
            report.items += 1
            report.skip(origin, reason, detail, then=self._on_skip)

        for found in self._found(skip):
            report.items += 1
            for document in self._read(found, report):
                report.documents += 1
                yield document
            report.bytes_done += found.size_bytes

    def _found(self, skip: OnSkip) -> Iterator[Found]:
        if self._is_folder:
            return FolderWalk(self._path, settings=self._settings, skip=skip).files()
        return iter([Found(str(self._path), self._path.name, self._path.stat().st_size)])

    def _read(self, found: Found, report: SourceReport) -> Iterator[Document]:
        """The documents of one file; what goes wrong with it is a skip."""
        try:
            with self._opener(found.path) as stream:
                yield from self._documents_of(found, stream, report)
        except FileNotFoundError as error:
            report.skip(found.relative, "vanished", error.strerror or str(error), then=self._on_skip)
        except OSError as error:
            report.skip(found.relative, "unreadable", error.strerror or str(error), then=self._on_skip)
        except UnicodeDecodeError as error:
            # It decoded a moment ago: someone writes to it.
            report.skip(found.relative, "changed", str(error), then=self._on_skip)

    def _documents_of(self, found: Found, stream: BinaryIO, report: SourceReport) -> Iterator[Document]:
        before = _stamp(stream)
        held = content(stream, found.relative)
        if isinstance(held, NotText):
            report.skip(found.relative, held.reason, held.detail, then=self._on_skip)
            return
        pieces = cut(held.blocks, limit_bytes=self._settings.document_bytes)
        filled = (piece for piece in pieces if not piece.isspace())
        first, second = next(filled, None), next(filled, None)
        if _stamp(stream) != before:
            report.skip(found.relative, "changed", "while it was read", then=self._on_skip)
            return
        if first is None:
            report.skip(found.relative, held.blank.reason, held.blank.detail, then=self._on_skip)
            return
        report.reencoded += held.is_guessed
        title = held.title(first)
        metadata = {"path": found.relative, **({} if title is None else {"title": title}), **held.metadata}
        if second is None:
            yield Document(document_id(found.relative), first, metadata, found.relative)
            return
        for number, part in enumerate(itertools.chain((first, second), filled), start=1):
            identity = document_id(found.relative, part=number)
            yield Document(identity, part, {**metadata, "part": number}, found.relative)
            first = second = None  # let them go while the rest streams
        if _stamp(stream) != before:
            report.skip(found.relative, "changed", "while its parts were read", then=self._on_skip)


def document_id(relative: str, *, part: int | None = None) -> str:
    """The id of a file's document or of one of its parts; different for any two of them."""
    whole = relative + "#file" if _LIKE_A_PART.search(relative) else relative
    return whole if part is None else f"{whole}#part={part}"


def _resolved(path: str | os.PathLike[str]) -> tuple[Path, bool]:
    try:
        resolved = Path(path).resolve(strict=True)
        mode = resolved.stat().st_mode
    except FileNotFoundError as error:
        raise SourceError(f"there is no file or folder {os.fspath(path)!r}", path=os.fspath(path)) from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        raise SourceError(f"{os.fspath(path)!r} can't be read: {error}", path=os.fspath(path)) from error
    if stat.S_ISDIR(mode):
        if is_bank(str(resolved)):
            raise SourceError(f"{os.fspath(path)!r} is a bank, not a folder of texts", path=os.fspath(path))
        return resolved, True
    if not stat.S_ISREG(mode):
        raise SourceError(f"{os.fspath(path)!r} is neither a file nor a folder", path=os.fspath(path))
    return resolved, False


def _stamp(stream: BinaryIO) -> tuple[int, int]:
    """What changes when a file is written to."""
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


def _quietly(origin: str, reason: Reason, detail: str) -> None:
    """Skips are counted by the iteration, not by the estimate."""

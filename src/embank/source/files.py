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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from embank.errors import SourceError
from embank.records import Document
from embank.source.content import Content, content
from embank.source.decode import NotText
from embank.source.parts import cut
from embank.source.pdf import SUFFIX, BrokenOff, PdfReader, missing_extra
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

    Metadata: `path`, `title` (Markdown's first heading, HTML's and PDF's own title, where there is one), `part` (of a
    file cut into parts), `encoding` (where not UTF-8), and of PDF `pages`, how many it has, and `page`, the one that a
    part begins on. No times: a touched file is not a changed document.

    PDF needs the extra `docs`: without it `MissingExtra` for a single file whose name ends in .pdf, and a counted skip
    in a folder.
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
        if not self._is_folder and self._path.name.lower().endswith(SUFFIX):
            missing = missing_extra()
            if missing is not None:
                raise missing
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

        with PdfReader(limit_s=self._settings.pdf_seconds, limit_bytes=self._settings.pdf_bytes) as pdf:
            for found in self._found(skip):
                report.items += 1
                for document in self._read(found, pdf, report):
                    report.documents += 1
                    yield document
                report.bytes_done += found.size_bytes

    def _found(self, skip: OnSkip) -> Iterator[Found]:
        if self._is_folder:
            return FolderWalk(self._path, settings=self._settings, skip=skip).files()
        return iter([Found(str(self._path), self._path.name, self._path.stat().st_size)])

    def _read(self, found: Found, pdf: PdfReader, report: SourceReport) -> Iterator[Document]:
        """The documents of one file; what goes wrong with it is a skip."""
        try:
            with self._opener(found.path) as stream:
                before = _stamp(stream)
                held = content(stream, found.relative, pdf)
                if isinstance(held, NotText):
                    self._skip(report, found, held)
                    return
                yield from self._documents_of(found, held, report, changed=lambda: _stamp(stream) != before)
        except FileNotFoundError as error:
            report.skip(found.relative, "vanished", error.strerror or str(error), then=self._on_skip)
        except OSError as error:
            report.skip(found.relative, "unreadable", error.strerror or str(error), then=self._on_skip)
        except BrokenOff as error:
            self._skip(report, found, error.why)
        except UnicodeDecodeError as error:
            # It decoded a moment ago: someone writes to it.
            report.skip(found.relative, "changed", str(error), then=self._on_skip)

    def _documents_of(
        self, found: Found, held: Content, report: SourceReport, *, changed: Callable[[], bool]
    ) -> Iterator[Document]:
        parts = _numbered(cut(held.blocks, limit_bytes=self._settings.document_bytes))
        first, second = next(parts, None), next(parts, None)
        if changed():
            report.skip(found.relative, "changed", "while it was read", then=self._on_skip)
            return
        if first is None:
            self._skip(report, found, held.problem() or held.blank)
            return
        report.reencoded += held.is_guessed
        title = held.title(first.text)
        metadata = {"path": found.relative, **({} if title is None else {"title": title}), **held.metadata}
        if second is None:
            yield Document(document_id(found.relative), first.text, metadata, found.relative)
        else:
            for number, part in enumerate(itertools.chain((first, second), parts), start=1):
                placed = {"part": number, "page": part.page} if held.is_paged else {"part": number}
                yield Document(document_id(found.relative, part=number), part.text, metadata | placed, found.relative)
                first = second = None  # let them go while the rest streams
            if changed():
                report.skip(found.relative, "changed", "while its parts were read", then=self._on_skip)
        problem = held.problem()
        if problem is not None:
            self._skip(report, found, problem)

    def _skip(self, report: SourceReport, found: Found, why: NotText) -> None:
        report.skip(found.relative, why.reason, why.detail, then=self._on_skip)


class _Part(NamedTuple):
    text: str
    page: int
    """The page, from 1, that it begins on, where there are form feeds between pages."""


def _numbered(pieces: Iterable[str]) -> Iterator[_Part]:
    """The pieces that are not blank."""
    page = 1
    for piece in pieces:
        if not piece.isspace():
            yield _Part(piece, page)
        page += piece.count("\f")


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

"""The text of PDF files, page by page, by a child process that may run out of time and memory (`pdfchild`).

Between two pages stands a form feed and a blank line. One page's pieces are held at a time, whatever the file's size.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, BinaryIO, Self

from embank.errors import MissingExtra
from embank.source.decode import NotText
from embank.source.pdfchild import END, ERROR, HEAD, HEADER, MAX_FRAME_BYTES, PAGE, REQUEST, TEXT
from embank.source.report import Reason
from embank.system.process import child_environment

SIGNATURE = b"%PDF-"
SUFFIX = ".pdf"
PAGE_BREAK = "\f\n\n"

_CHILD = "embank.source.pdfchild"
_FILES_PER_CHILD = 200
_EXIT_S = 5.0
_RECEIVED_BYTES = 1 << 16
_REASONS: dict[str, Reason] = {"encrypted": "encrypted", "over limit": "over limit", "unreadable": "unreadable"}
_NONSENSE = NotText("damaged", "its reader answered with nonsense")


def is_pdf(head: bytes, name: str) -> bool:
    """Whether a file is to be read as PDF: by how it begins, or by its name if there is anything in it."""
    return head.startswith(SIGNATURE) or (bool(head) and name.lower().endswith(SUFFIX))


def missing_extra() -> MissingExtra | None:
    """The error to tell where the library is not installed."""
    return MissingExtra("pypdfium2", "docs") if find_spec("pypdfium2") is None else None


class BrokenOff(Exception):
    """A file's text ends before its end, as `why` tells. Never leaves this room."""

    def __init__(self, why: NotText) -> None:
        super().__init__(why.detail)
        self.why = why


class PdfText:
    """The text of one file, to be read once and before the next file is asked for.

    `problem` says, once `blocks` has come to its end, what could not be read of it.
    """

    def __init__(self, pages: int, title: str | None, blocks: Iterator[str]) -> None:
        self.pages = pages
        self.title = title
        self.blocks = blocks
        self.problem: NotText | None = None


class PdfReader:
    """Reads one file after the other; starts the child with the first one. A context manager; for one thread.

    `limit_s`: seconds that a file may keep the child busy; `limit_bytes`: memory that it may take.
    """

    def __init__(self, *, limit_s: float, limit_bytes: int) -> None:
        self._limit_s = limit_s
        self._limit_bytes = limit_bytes
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, stream: BinaryIO) -> PdfText | NotText:
        """The text of an open file, or why there is none."""
        missing = missing_extra()
        if missing is not None:
            return NotText("missing extra", str(missing))
        is_used = self._child is not None
        try:
            return self._ask(stream)
        except BrokenOff as broken:
            if not is_used or broken.why.reason == "over limit":
                return broken.why
        # Not the file's fault, perhaps: what was read before may have left the child in a bad way.
        try:
            return self._ask(stream)
        except BrokenOff as broken:
            return broken.why

    def _ask(self, stream: BinaryIO) -> PdfText | NotText:
        if self._child is None or not self._child.is_idle or self._child.files >= _FILES_PER_CHILD:
            self._end()
            self._child = _Child(self._limit_bytes)
        child = self._child
        try:
            child.request(stream.fileno(), self._limit_s)
            kind, content = child.frame()
            if kind == ERROR:
                return _why(content)
            text = PdfText(*_head(kind, content), iter(()))
        except BaseException:
            self._end()
            raise
        text.blocks = _blocks(child, text)
        return text

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


def _head(kind: bytes, content: bytes) -> tuple[int, str | None]:
    told = _object(content)
    pages, title = told.get("pages"), told.get("title")
    if kind != HEAD or not isinstance(pages, int) or not isinstance(title, str):
        raise BrokenOff(_NONSENSE)
    return pages, title or None


def _blocks(child: _Child, text: PdfText) -> Iterator[str]:
    try:
        while True:
            kind, content = child.frame()
            if kind == TEXT:
                yield content.decode("utf-8", "replace")
            elif kind == PAGE:
                yield PAGE_BREAK
            else:
                break
    finally:
        if not child.is_idle:  # broken off, here or there: what it is at is no longer wanted
            child.end()
    if kind != END:
        raise BrokenOff(_why(content))
    told = _object(content)
    if told.get("unread"):
        detail = f"{told['unread']} of {text.pages:,} pages can't be read, the first is page {told.get('first')}"
        text.problem = NotText("damaged", detail)


class _Child:
    """One child process. Whatever goes wrong with it is told as `BrokenOff`; then it is to be ended."""

    def __init__(self, limit_bytes: int) -> None:
        self.files = 0
        self.is_idle = True
        self._limit_bytes = limit_bytes
        self._limit_s = self._left_s = 0.0
        self._received = bytearray()
        self._connection, theirs = socket.socketpair()
        try:
            self._process = _started(theirs.fileno(), limit_bytes)
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()

    def request(self, file: int, limit_s: float) -> None:
        """Hand over an open file."""
        self.files += 1
        self.is_idle = False
        self._limit_s = self._left_s = limit_s
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # found out when its answer is waited for
            socket.send_fds(self._connection, [REQUEST.pack(limit_s)], [file])

    def frame(self) -> tuple[bytes, bytes]:
        """Kind and content of the next frame."""
        kind, size = HEADER.unpack(self._exactly(HEADER.size))
        if size > MAX_FRAME_BYTES:
            raise BrokenOff(_NONSENSE)
        content = self._exactly(size)
        self.is_idle = kind in {END, ERROR}
        return kind, content

    def end(self) -> None:
        """Kill it, if it still runs, and reap it; may be called again."""
        self.is_idle = False
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._connection.close()

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._received += self._some()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _some(self) -> bytes:
        """What has come, after waiting for it; only waiting takes from the file's time."""
        began_s = time.monotonic()
        self._connection.settimeout(max(self._left_s, 0.001))
        try:
            received = self._connection.recv(_RECEIVED_BYTES)
        except TimeoutError:
            detail = f"its reader was waited for longer than source.pdf_seconds = {self._limit_s:g}"
            raise BrokenOff(NotText("over limit", detail)) from None
        except ConnectionResetError:
            received = b""
        self._left_s -= time.monotonic() - began_s
        if not received:
            raise BrokenOff(self._how_it_ended())
        return received

    def _how_it_ended(self) -> NotText:
        try:
            status = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return NotText("damaged", "its reader hung up")
        if status == -signal.SIGABRT:  # what PDFium does when it gets no memory
            return NotText("over limit", f"it needs more memory than source.pdf_memory = {self._limit_bytes:,} bytes")
        told = f"status {status}" if status >= 0 else signal.Signals(-status).name
        return NotText("damaged", f"its reader ended with {told}")


def _started(socket_fd: int, limit_bytes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: the working directory is the user's; a stray json.py or embank/ there must not be imported.
        [sys.executable, "-P", "-m", _CHILD, str(socket_fd), str(os.getpid()), str(limit_bytes)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(socket_fd,),
        env=child_environment({}),
        start_new_session=True,  # Ctrl-C is the parent's
    )


def _why(content: bytes) -> NotText:
    told = _object(content)
    return NotText(_REASONS.get(str(told.get("reason")), "damaged"), str(told.get("detail")))


def _object(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = None
    return told if isinstance(told, dict) else {}

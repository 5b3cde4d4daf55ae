"""Reads PDF files, as a child process: `python -m embank.source.pdfchild SOCKET PARENT LIMIT`.

Over the socket comes one open file after the other, each with a limit of seconds; back go frames: a head, the text of
each page in pieces, an end or an error. Pages are read one at a time and forgotten. The kernel refuses the process more
memory than LIMIT bytes beyond what it began with, so that whatever a hostile file provokes ends here: the parent
(`pdf`) finds the process gone, or kills it when it is late, and starts another.

The one file that imports pypdfium2.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = struct.Struct("!cI")
"""Each frame: its kind, and how many bytes of UTF-8 follow."""

REQUEST = struct.Struct("!d")
"""What comes with an open file: the seconds of processor time that it may take."""

HEAD, TEXT, PAGE, END, ERROR = b"H", b"T", b"P", b"E", b"X"
"""`HEAD`: JSON `pages`, `title`. `TEXT`: some of the page's text. `PAGE`: another page begins. `END`: JSON `unread`,
how many pages could not be read, and `first`, the first of them from 1. `ERROR`: JSON `reason`, `detail`."""

MAX_FRAME_BYTES = 1 << 20

_PIECE_CHARS = 1 << 16
_TITLE_CHARS = 200
_MOST_UNREAD_AT_ONCE = 1000
_PASSWORD_ERRORS = {4, 5}  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY
# PDFium marks a hyphen at a line's end, after which it has joined the word, with one of the first two.
_LEFT_OUT = dict.fromkeys([0x02, 0xFFFE, 0xFFFF, *(code for code in range(32) if code not in (9, 10, 12, 13)), 0x7F])
_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
_SHOWN: dict[int, str | None] = {**_LEFT_OUT, 12: " ", **_LIGATURES}


class _Refused(Exception):
    """Why a file gives no (more) text: a reason of `embank.source.report`, and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def main() -> int:
    """Answer until the parent hangs up."""
    from embank.system.process import die_with_parent

    socket_fd, parent_pid, limit_bytes = map(int, sys.argv[1:])
    die_with_parent(parent_pid=parent_pid)
    connection = socket.socket(fileno=socket_fd)
    try:
        import pypdfium2
    except ImportError as error:
        _tell(connection, ERROR, {"reason": "unreadable", "detail": f"pypdfium2 can't be imported: {error}"})
        return 1
    _limit_memory(limit_bytes)
    while True:
        request, files, *_ = socket.recv_fds(connection, REQUEST.size, 1)
        if len(request) != REQUEST.size or not files:
            return 0
        try:
            _read(pypdfium2, files[0], connection, *REQUEST.unpack(request))
        except _Refused as refused:
            _tell(connection, ERROR, {"reason": refused.reason, "detail": str(refused)})
        except MemoryError:
            _tell(connection, ERROR, {"reason": "over limit", "detail": "more memory than source.pdf_memory"})
        finally:
            os.close(files[0])


def _limit_memory(limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found = re.search(r"^VmSize:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    most = (int(found[1]) * 1024 if found else 0) + limit_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _read(pdfium: Any, file: int, connection: socket.socket, limit_s: float) -> None:
    until_s = time.process_time() + limit_s
    raw = pdfium.raw.FPDF_LoadDocument(f"/dev/fd/{file}".encode(), None)
    if not raw:
        code = pdfium.raw.FPDF_GetLastError()
        if code in _PASSWORD_ERRORS:
            raise _Refused("encrypted", "it needs a password" if code == 4 else "by a method that is not known")
        raise _Refused("damaged", "no PDF that can be read")
    document = pdfium.PdfDocument(raw)
    try:
        pages = len(document)
        if pages == 0:
            raise _Refused("damaged", "it has no pages")
        _tell(connection, HEAD, {"pages": pages, "title": _title(document)})
        unread, first, at_once = 0, 0, 0
        for number in range(pages):
            if time.process_time() > until_s:
                raise _Refused("over limit", f"page {number + 1:,} is reached after source.pdf_seconds = {limit_s:g}")
            if number:
                _send(connection, PAGE)
            try:
                for piece in _page(document, number):
                    _send(connection, TEXT, piece.encode())
                at_once = 0
            except (pdfium.PdfiumError, ValueError):
                unread, first, at_once = unread + 1, first or number + 1, at_once + 1
                if at_once > _MOST_UNREAD_AT_ONCE:
                    raise _Refused("damaged", f"no page of {at_once:,} behind each other can be read") from None
        _tell(connection, END, {"unread": unread, "first": first})
    finally:
        document.close()


def _title(document: Any) -> str:
    try:
        title = document.get_metadata_value("Title").encode("utf-8", "ignore").decode()
    except ValueError:  # not UTF-16, which it is stored in
        return ""
    return " ".join(_shown(title).split())[:_TITLE_CHARS]


def _page(document: Any, number: int) -> Iterator[str]:
    page = document[number]
    try:
        laid_out = page.get_textpage()
        try:
            text = _shown(laid_out.get_text_bounded())
        finally:
            laid_out.close()
    finally:
        page.close()
    for start in range(0, len(text), _PIECE_CHARS):
        yield text[start : start + _PIECE_CHARS]


def _shown(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_SHOWN)


def _tell(connection: socket.socket, kind: bytes, values: dict[str, Any]) -> None:
    _send(connection, kind, json.dumps(values).encode())


def _send(connection: socket.socket, kind: bytes, content: bytes = b"") -> None:
    connection.sendall(HEADER.pack(kind, len(content)) + content)


if __name__ == "__main__":
    # A damaged heap must not keep the interpreter from ending.
    try:
        status = main()
    except (BrokenPipeError, ConnectionResetError):
        status = 0
    os._exit(status)

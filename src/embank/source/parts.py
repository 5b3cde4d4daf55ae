"""Cutting a long text into parts while it streams by, in constant memory."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

MIN_LIMIT_BYTES = 4
"""A part must have room for one character, whichever."""

_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s|[。！？]")
_SPACE = re.compile(r"\s")
_PARAGRAPH_ENDS = ("\n\n", "\n\r\n")
_JOINERS = "\u200d\ufe0f\ufe0e"
_LONGEST_CLUSTER = 32


def cut(blocks: Iterable[str], *, limit_bytes: int) -> Iterator[str]:
    """Parts of at most `limit_bytes` of UTF-8, whose concatenation is the concatenation of the blocks.

    A part ends at the last paragraph, else line, else sentence, else space in its last quarter, else where it is full.
    None is empty. `limit_bytes` is at least 4. Holds one part and one block at a time.
    """
    pending: list[str] = []
    held_bytes = 0
    for block in blocks:
        pending.append(block)
        held_bytes += utf8_bytes(block)
        if held_bytes <= limit_bytes:
            continue
        text = "".join(pending)
        done = 0
        while held_bytes > limit_bytes:
            end = _boundary(text, done, limit_bytes)
            part = text[done:end]
            yield part
            done = end
            held_bytes -= utf8_bytes(part)
        pending = [text[done:]]
    if held_bytes:
        yield "".join(pending)


def utf8_bytes(text: str) -> int:
    """The length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _boundary(text: str, start: int, limit_bytes: int) -> int:
    """Where the part that begins at `start` ends; there is more text than fits."""
    window = text[start : start + limit_bytes]
    if not window.isascii():
        # A character cut in half at the end is dropped.
        window = window.encode("utf-8")[:limit_bytes].decode("utf-8", "ignore")
    full = len(window)
    floor = full - full // 4
    for separator in (*_PARAGRAPH_ENDS, "\n"):
        found = window.rfind(separator, floor)
        if found >= 0:
            return start + found + len(separator)
    for pattern in (_SENTENCE_END, _SPACE):
        end = _last_end(pattern, window, floor)
        if end is not None:
            return start + end
    return start + _between_clusters(text, start, full)


def _last_end(pattern: re.Pattern[str], window: str, floor: int) -> int | None:
    """Where the last match after `floor` ends; looks near the window's end first, where it mostly is."""
    for back in (1 << 10, 1 << 14, len(window)):
        end = None
        for match in pattern.finditer(window, max(floor, len(window) - back)):
            end = match.end()
        if end is not None:
            return end
    return None


def _between_clusters(text: str, start: int, full: int) -> int:
    """Move a hard cut back so that a mark isn't parted from its letter, nor CR from LF."""
    for size in range(full, max(full - _LONGEST_CLUSTER, 0), -1):
        after, before = text[start + size], text[start + size - 1]
        joined = (
            unicodedata.combining(after) or after in _JOINERS or before == "\u200d" or (before, after) == ("\r", "\n")
        )
        if not joined:
            return size
    return full

"""The title of a Markdown text: its first heading."""

from __future__ import annotations

import re

LOOKED_AT_CHARS = 16 << 10
TITLE_CHARS = 200

_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_ATX = re.compile(r" {0,3}#{1,6}[ \t]+(?P<title>.*)")
_CLOSING = re.compile(r"(^|[ \t])#+[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_NO_PARAGRAPH = re.compile(r" {0,3}([-*+>|]|\d+[.)])( |$)| {4}")


def markdown_title(text: str) -> str | None:
    """The first heading near the start of a Markdown text (`# …`, or underlined), `None` where there is none.

    Front matter and fenced code are passed over. Inline markup stays as it is written.
    """
    lines = text[:LOOKED_AT_CHARS].removeprefix("\ufeff").splitlines()
    fence: str | None = None
    previous = ""
    for line in lines[_front_matter(lines) :]:
        mark = _FENCE.match(line)
        if fence is not None:
            if mark and mark[1].startswith(fence):
                fence = None
            continue
        if mark:
            fence, previous = mark[1], ""
            continue
        heading = _ATX.match(line)
        title = _CLOSING.sub("", heading["title"]).strip() if heading else ""
        if not heading and previous and _UNDERLINE.match(line):
            title = previous.strip()
        if title:
            return title[:TITLE_CHARS].strip()
        previous = "" if heading or _NO_PARAGRAPH.match(line) else line.strip()
    return None


def _front_matter(lines: list[str]) -> int:
    """How many lines the YAML (`---`) or TOML (`+++`) front matter takes."""
    if not lines or lines[0].rstrip() not in {"---", "+++"}:
        return 0
    ends = {"---", "..."} if lines[0].startswith("-") else {"+++"}
    for number, line in enumerate(lines[1:], start=2):
        if line.rstrip() in ends:
            return number
    return 0

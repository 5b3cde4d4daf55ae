"""The tags and texts of HTML, told apart while it streams by.

Follows the HTML standard's tokenizer in what matters for text: quotes around attributes, comments, elements whose
content is no markup, character references. It builds no tree. Every character is looked at a bounded number of times
and a bounded number is held back, so that time is linear and memory constant whatever the page: the standard library's
parser takes quadratic time for an attribute's quote that is never closed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

RAW = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"})
"""Elements in which nothing is markup but their own end tag. Of these, a title's text is given."""

MAX_NAME_CHARS = 64
MAX_ATTRIBUTES_CHARS = 2048
"""How much of a tag's attributes is kept; images as data URIs take megabytes."""

_REFERENCE_CHARS = 40
_LONGEST_OPENING = 4
_OPENING = re.compile(r"<(?:(?P<closing>/?)(?=[a-zA-Z])|(?P<comment>!--)|(?P<bogus>[!?]|/(?=.)))", re.DOTALL)
# A tag as most are, whole in one block; what this does not match, the states below read piece by piece.
_WHOLE = re.compile(
    r"""<(/?)([a-zA-Z][^\s/>]{0,63}+)(?![^\s/>])((?:[^>="']++|=\s*+"[^"]*+"|=\s*+'[^']*+'|=\s*+[^\s"'>][^\s>]*+)*+)>"""
)
_NAME_END = re.compile(r"[\s/>]")
_ATTRIBUTE_END = re.compile(r"[>=]")
_SPACE = re.compile(r"\s*+")
_VALUE_END = re.compile(r"[\s>]")
_COMMENT_END = re.compile(r"--!?>")
_COMMENT_END_CHARS = 4
_RAW_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in RAW}
# Python converts no number of thousands of digits, and none so long is a character.
_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{32,}|[xX][0-9a-fA-F]{32,});?")


class Tag(NamedTuple):
    """A start or end tag: its name in lower case, and its attributes as they are written (see `attributes`)."""

    name: str
    is_end: bool
    attributes: str


Token = str | Tag
"""A piece of text, its character references replaced, or a tag."""


def tokens(blocks: Iterable[str], *, is_xml: bool = False) -> Iterator[Token]:
    """The tokens of a page that comes in blocks; a text may come in several pieces.

    `is_xml`: an element that closes itself, `<script src="…"/>`, has no content.
    """
    scanner = _Scanner(is_xml=is_xml)
    for block in blocks:
        yield from scanner.feed(block)
    yield from scanner.feed("", is_last=True)


class _Scanner:
    """Each state reads from `at` and says where it stopped; it stops without moving where it needs more."""

    def __init__(self, *, is_xml: bool) -> None:
        self._is_xml = is_xml
        self._rest = ""
        self._is_last = False
        self._found: list[Token] = []
        self._state: Callable[[str, int], int] = self._in_text
        self._name = ""
        self._is_end = False
        self._kept: list[str] = []
        self._kept_chars = 0
        self._quote = ""

    def feed(self, block: str, *, is_last: bool = False) -> list[Token]:
        self._is_last = is_last
        self._found = []
        text = self._rest + block
        at = 0
        while at < len(text):
            before, state = at, self._state
            at = state(text, at)
            if at == before and self._state == state:
                break
        self._rest = text[at:]
        return self._found

    def _give(self, text: str) -> None:
        if "&" in text:
            text = html.unescape(_LONG_REFERENCE.sub("\ufffd", text))
        if text:
            self._found.append(text)

    def _whole_references(self, text: str, start: int, end: int) -> int:
        """Where a text that goes on behind `end` can be given up to, so that no reference is cut in two."""
        begun = text.rfind("&", max(start, end - _REFERENCE_CHARS), end)
        return end if begun < 0 or ";" in text[begun:end] else begun

    def _in_text(self, text: str, at: int) -> int:
        while (start := text.find("<", at)) >= 0:
            if start > at:
                self._give(text[at:start])
            whole = _WHOLE.match(text, start)
            if whole is None:
                return self._opening(text, start)
            at = whole.end()
            is_end, name, attributes = whole.groups()
            self._add(name, attributes[:MAX_ATTRIBUTES_CHARS], is_end=bool(is_end))
            if self._state != self._in_text:
                return at
        end = len(text) if self._is_last else self._whole_references(text, at, len(text))
        self._give(text[at:end])
        return end

    def _opening(self, text: str, start: int) -> int:
        """What the "<" at `start` begins."""
        if len(text) - start < _LONGEST_OPENING and not self._is_last:
            return start
        opening = _OPENING.match(text, start)
        if opening is None:
            self._give("<")
            return start + 1
        if opening["comment"]:
            self._state = self._in_comment
            return start + 2  # its dashes may be those that end it: <!-->
        if opening["bogus"]:
            self._state = self._in_bogus
            return opening.end()
        self._name, self._is_end = "", bool(opening["closing"])
        self._kept, self._kept_chars = [], 0
        self._state = self._in_name
        return opening.end()

    def _in_name(self, text: str, at: int) -> int:
        end = _NAME_END.search(text, at)
        stop = len(text) if end is None else end.start()
        self._name += text[at : min(stop, at + MAX_NAME_CHARS - len(self._name))]
        if end is not None:
            self._state = self._in_attributes
        return stop

    def _in_attributes(self, text: str, at: int) -> int:
        end = _ATTRIBUTE_END.search(text, at)
        stop = len(text) if end is None else end.end()
        if end is None or end[0] == "=":
            self._keep(text, at, stop)
            if end is not None:
                self._state = self._before_value
            return stop
        self._keep(text, at, stop - 1)
        self._state = self._in_text
        self._add(self._name, "".join(self._kept), is_end=self._is_end)
        return stop

    def _before_value(self, text: str, at: int) -> int:
        spaces = _SPACE.match(text, at)
        start = at if spaces is None else spaces.end()
        self._keep(text, at, start)
        if start == len(text):
            return start
        if text[start] in "\"'":
            self._quote = text[start]
            self._keep(text, start, start + 1)
            self._state = self._in_quotes
            return start + 1
        self._state = self._in_attributes if text[start] == ">" else self._in_value
        return start

    def _in_quotes(self, text: str, at: int) -> int:
        end = text.find(self._quote, at)
        stop = len(text) if end < 0 else end + 1
        self._keep(text, at, stop)
        if end >= 0:
            self._state = self._in_attributes
        return stop

    def _in_value(self, text: str, at: int) -> int:
        end = _VALUE_END.search(text, at)
        stop = len(text) if end is None else end.start()
        self._keep(text, at, stop)
        if end is not None:
            self._state = self._in_attributes
        return stop

    def _keep(self, text: str, start: int, stop: int) -> None:
        room = MAX_ATTRIBUTES_CHARS - self._kept_chars
        if room > 0:
            self._kept.append(text[start : min(stop, start + room)])
            self._kept_chars += min(stop - start, room)

    def _add(self, name: str, attributes: str, *, is_end: bool) -> None:
        """A tag that has come to its end; the state changes where no markup follows."""
        name = name.lower()
        self._found.append(Tag(name, is_end, attributes))
        if name in RAW and not is_end and not (self._is_xml and attributes.endswith("/")):
            self._name = name
            self._state = self._in_raw

    def _in_raw(self, text: str, at: int) -> int:
        end = _RAW_END[self._name].search(text, at)
        if end is not None:
            stop = end.start()
            self._state = self._in_text
        else:
            stop = len(text) if self._is_last else max(at, len(text) - len(self._name) - 2)
        if self._name == "title":
            if end is None and not self._is_last:
                stop = self._whole_references(text, at, stop)
            self._give(text[at:stop])
        return stop

    def _in_comment(self, text: str, at: int) -> int:
        end = _COMMENT_END.search(text, at)
        if end is None:
            return len(text) if self._is_last else max(at, len(text) - _COMMENT_END_CHARS)
        self._state = self._in_text
        return end.end()

    def _in_bogus(self, text: str, at: int) -> int:
        end = text.find(">", at)
        if end < 0:
            return len(text)
        self._state = self._in_text
        return end + 1


_ATTRIBUTE = re.compile(r"""([^\s=>"'/]++)(?:\s*+=\s*+(?:"([^"]*+)"?|'([^']*+)'?|([^\s>]*+)))?""")


def attributes(tag: Tag) -> dict[str, str]:
    """A tag's attributes by their names in lower case; "" for one without a value. Of equal names the first stands."""
    found: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(tag.attributes):
        found.setdefault(match[1].lower(), html.unescape(next(filter(None, match.groups()[1:]), "")))
    return found

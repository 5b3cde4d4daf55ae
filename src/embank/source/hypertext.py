"""What an HTML page says: its title and its main text, in constant memory and linear time.

The main text is what stands in `<main>`, else the whole page; without navigation, forms' controls, scripts, styles and
what is hidden. Blocks become paragraphs, so that a heading stands by itself; items and rows become lines. The page is
read twice, since only at its end it is known whether it has a main part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from embank.source.markup import Tag, attributes, tokens

SUFFIXES = (".html", ".htm", ".xhtml", ".xht")
TITLE_CHARS = 200
BLOCK_CHARS = 1 << 14

_DROPPED = frozenset(
    {"nav", "template", "svg", "noscript", "button", "select", "datalist", "canvas", "audio", "video", "object"}
)
_DROPPED_OUTSIDE_MAIN = frozenset({"footer", "aside"})
_DROPPED_ROLES = frozenset({"navigation", "search", "menu", "menubar", "toolbar", "tablist"})
_DROPPED_ROLES_OUTSIDE_MAIN = frozenset({"banner", "contentinfo", "complementary"})
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
# Their end tags may be left out, so that where one ends is not told by its own.
_OPEN_ENDED = frozenset({"p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "option", "body", "html"})
_PARAGRAPHS = frozenset(
    {"address", "article", "aside", "blockquote", "body", "dd", "details", "dialog", "div", "dl", "dt", "fieldset"}
    | {"figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "legend"}
    | {"main", "ol", "p", "pre", "section", "summary", "table", "caption", "ul"}
)
_PERMALINK = "¶"


# What stands between two texts, by its rank: the widest one counts.
_GAPS = ("", " ", "\t", "\n", "\n\n")
_SPACE = 1
_GAP = dict.fromkeys(("td", "th"), 2) | dict.fromkeys(("br", "li", "tr"), 3) | dict.fromkeys(_PARAGRAPHS, 4)

Scope = Literal["main", "page", "everything"]
"""Which part of a page is its text. `everything` is for pages that nothing is left of otherwise."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a first look at a page has found."""

    title: str | None
    scope: Scope


def outline(blocks: Iterable[str], *, is_xml: bool = False) -> Outline:
    """Read a page for its title, and for what its text is to be taken from; as far as that takes."""
    place = _Place()
    title = ""
    has_page = False
    for token in tokens(blocks, is_xml=is_xml):
        if isinstance(token, Tag):
            place.pass_by(token)
        elif place.in_title:
            if not place.is_dropping and len(title) < TITLE_CHARS:
                title += token
        elif not place.is_dropping and not token.isspace():
            has_page = True
            if place.in_main:
                return Outline(_title(title), "main")
    return Outline(_title(title), "page" if has_page else "everything")


def _title(text: str) -> str | None:
    return " ".join(text.split())[:TITLE_CHARS].strip() or None


def text_of(blocks: Iterable[str], scope: Scope, *, is_xml: bool = False) -> Iterator[str]:
    """The text of a page, in blocks of some thousand characters."""
    block: list[str] = []
    size = 0
    for piece in _pieces(blocks, scope, is_xml=is_xml):
        block.append(piece)
        size += len(piece)
        if size >= BLOCK_CHARS:
            yield "".join(block)
            block, size = [], 0
    yield "".join(block)


def _pieces(blocks: Iterable[str], scope: Scope, *, is_xml: bool) -> Iterator[str]:
    place = _Place()
    gap, has_begun, is_item = 0, False, False
    for token in tokens(blocks, is_xml=is_xml):
        if isinstance(token, Tag):
            place.pass_by(token)
            gap = max(gap, _GAP.get(token.name, 0))
            is_item = (is_item or token.name == "li") and not token.is_end
            continue
        if not place.gives(scope) or token == _PERMALINK:
            continue
        text = token.replace("\xad", "")
        after = 0
        if place.is_preformatted:
            text = text.replace("\r\n", "\n")
        else:
            gap = max(gap, _SPACE if text[:1].isspace() else 0)
            after = _SPACE if text[-1:].isspace() else 0
            text = " ".join(text.split())
        if text:
            yield (_GAPS[gap] if has_begun else "") + ("- " if is_item else "") + text
            gap, has_begun, is_item = after, True, False


class _Place:
    """Where in a page a token stands: in what is dropped, in its main part, in its title, in preformatted text.

    Each of these is one element, which ends where as many elements of its name have ended as have begun. The ends of
    others are not looked at, so that memory is constant however deep a page is nested.
    """

    def __init__(self) -> None:
        self.in_title = False
        self._dropping = self._main = ""  # names of elements
        self._dropping_depth = self._main_depth = self._preformatted_depth = 0

    @property
    def is_dropping(self) -> bool:
        return self._dropping_depth > 0

    @property
    def in_main(self) -> bool:
        return self._main_depth > 0

    @property
    def is_preformatted(self) -> bool:
        return self._preformatted_depth > 0

    def gives(self, scope: Scope) -> bool:
        """Whether a text at this place belongs to that part of the page."""
        if self.in_title or scope == "everything":
            return not self.in_title
        return not self._dropping_depth and (scope == "page" or self._main_depth > 0)

    def pass_by(self, tag: Tag) -> None:
        name, is_end, given = tag
        if name in _VOID or given.endswith("/"):
            return
        if name == "title":
            self.in_title = not is_end
        step = -1 if is_end else 1
        if self._dropping_depth and name == self._dropping:
            self._dropping_depth += step
        if self._main_depth and name == self._main:
            self._main_depth += step
        if name == "pre":
            self._preformatted_depth = max(self._preformatted_depth + step, 0)
        if not is_end:
            self._enter(tag)

    def _enter(self, tag: Tag) -> None:
        name = tag.name
        told = attributes(tag) if "role" in tag.attributes or "hidden" in tag.attributes else {}
        if not self._main_depth and (name == "main" or told.get("role") == "main"):
            self._main, self._main_depth = name, 1
            self._dropping_depth = 0  # whatever was left open before
        elif not self._dropping_depth and self._is_dropped(name, told):
            self._dropping, self._dropping_depth = name, 1

    def _is_dropped(self, name: str, told: dict[str, str]) -> bool:
        if name in _OPEN_ENDED:
            return False
        outside = not self._main_depth
        if name in _DROPPED or (outside and name in _DROPPED_OUTSIDE_MAIN):
            return True
        if not told:
            return False
        role = told.get("role")
        is_hidden = told.get("hidden", "until-found") != "until-found" or told.get("aria-hidden") == "true"
        return is_hidden or role in _DROPPED_ROLES or (outside and role in _DROPPED_ROLES_OUTSIDE_MAIN)

"""What is in one file: its text in blocks, and what is told about it, whichever of text, HTML and PDF it is.

HTML is known by its name, PDF by how it begins; everything else is text, as long as it decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from embank.source.charset import declared_encoding
from embank.source.decode import HEAD_BYTES, Encoding, NotText, decoded, examine
from embank.source.hypertext import SUFFIXES, outline, text_of
from embank.source.title import markdown_title

MARKDOWN = (".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd")

_BLANK = NotText("empty", "nothing but white space")


@dataclass(frozen=True, slots=True)
class Content:
    """A file's text. `blocks` may be read once, while the file is open.

    `metadata` holds what is known before the text; `title` finds one in its beginning. `blank` says why there is no
    document where the text turns out to be nothing but white space.
    """

    blocks: Iterator[str]
    metadata: dict[str, Any] = field(default_factory=dict)
    title: Callable[[str], str | None] = lambda _: None
    blank: NotText = _BLANK
    is_guessed: bool = False


def content(stream: BinaryIO, name: str) -> Content | NotText:
    """What a seekable stream holds, read from its start; `name` is the file's. Raises OSError."""
    lower = name.lower()
    if lower.endswith(SUFFIXES):
        return _page(stream, is_xml=lower.endswith((".xhtml", ".xht")))
    encoding = examine(stream)
    if isinstance(encoding, NotText):
        return encoding
    return Content(
        decoded(stream, encoding.name),
        _metadata(encoding),
        markdown_title if lower.endswith(MARKDOWN) else lambda _: None,
        is_guessed=encoding.guessed,
    )


def _page(stream: BinaryIO, *, is_xml: bool) -> Content | NotText:
    stream.seek(0)
    encoding = examine(stream, declared=declared_encoding(stream.read(HEAD_BYTES)))
    if isinstance(encoding, NotText):
        return encoding
    found = outline(decoded(stream, encoding.name), is_xml=is_xml)
    title = {} if found.title is None else {"title": found.title}
    return Content(
        text_of(decoded(stream, encoding.name), found.scope, is_xml=is_xml),
        title | _metadata(encoding),
        blank=NotText("empty", "no text beside its markup"),
        is_guessed=encoding.guessed,
    )


def _metadata(encoding: Encoding) -> dict[str, Any]:
    return {} if encoding.is_utf8 else {"encoding": encoding.name}

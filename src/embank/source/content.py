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
from embank.source.pdf import SIGNATURE, PdfReader, PdfText, is_pdf
from embank.source.title import markdown_title

MARKDOWN = (".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd")

_BLANK = NotText("empty", "nothing but white space")


@dataclass(frozen=True, slots=True)
class Content:
    """A file's text. `blocks` may be read once, while the file is open.

    `metadata` holds what is known before the text; `title` finds one in its beginning. `blank` says why there is no
    document where the text turns out to be nothing but white space, `problem` what was left out of it, once it is read.
    Where `is_paged`, a form feed stands between two pages.
    """

    blocks: Iterator[str]
    metadata: dict[str, Any] = field(default_factory=dict)
    title: Callable[[str], str | None] = lambda _: None
    blank: NotText = _BLANK
    is_guessed: bool = False
    is_paged: bool = False
    problem: Callable[[], NotText | None] = lambda: None


def content(stream: BinaryIO, name: str, pdf: PdfReader) -> Content | NotText:
    """What an open file holds, read from its start; `name` is the file's.

    Raises OSError; `blocks` does, and UnicodeDecodeError where the file was changed meanwhile, and `BrokenOff`.
    """
    lower = name.lower()
    stream.seek(0)
    if is_pdf(stream.read(len(SIGNATURE)), name):
        return _pages(pdf.read(stream))
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


def _pages(text: PdfText | NotText) -> Content | NotText:
    if isinstance(text, NotText):
        return text
    title = {} if text.title is None else {"title": text.title}
    return Content(
        text.blocks,
        title | {"pages": text.pages},
        blank=NotText("no text", f"{text.pages:,} pages without any: scanned, perhaps"),
        is_paged=True,
        problem=lambda: text.problem,
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

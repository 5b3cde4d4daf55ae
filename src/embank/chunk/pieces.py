"""Where a text may be cut: paragraphs and sentences first, then lines, words, and single characters.

Every function gives consecutive spans that together are the whole span asked about, so that nothing is lost; white
space stays with what precedes it. All run in linear time and remember nothing, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Level = Literal["sentence", "line", "word", "character"]
FINER: dict[Level, Level] = {"sentence": "line", "line": "word", "word": "character"}
"""What a piece is cut into when it is too long."""


class Span(NamedTuple):
    """A piece of the text: code point offsets, and whether a paragraph begins with it."""

    start: int
    end: int
    opens_paragraph: bool


# Possessive runs and the look-behind keep long runs of one character linear.
_BREAK = re.compile(
    r"""
      (?P<paragraph> \n [^\S\n]*+ \n \s*+ )
    | (?P<item> \n (?= [^\S\n]*+ (?: [-*+•>|] | \#{1,6}\  | \d{1,3}[.)]\  ) ) )
    | (?P<heading> (?<=\n) \#{1,6}\ [^\n]*+ \n )
    | (?P<sentence> (?<![.!?…]) [.!?…]++ ["'”’»)\]]*+ \s++ (?! [a-z] ) )
    | (?P<wide> [。！？]++ [”’」』）]*+ \s*+ )
    """,
    re.VERBOSE,
)
_PARAGRAPH = re.compile(r"\n[^\S\n]*+\n")
_ENDS: dict[Level, re.Pattern[str]] = {"line": re.compile(r"\n\s*+"), "word": re.compile(r"\s++")}
_TITLES = ("Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "St.", "vs.", "cf.", "Fig.", "No.", "e.g.", "i.e.", "al.")


def sentences(text: str) -> Iterator[Span]:
    """The sentences (list items, headings) of a text, each saying whether a paragraph begins with it."""
    start, opens = 0, True
    for found in _BREAK.finditer(text):
        # An item's mark after a blank line was consumed by the paragraph's end, so pieces are never empty.
        if found.end() == start or (found.lastgroup == "sentence" and _abbreviates(text, found)):
            continue
        yield Span(start, found.end(), opens)
        start = found.end()
        # A sentence's own white space may hold the blank line that ends the paragraph.
        opens = found.lastgroup == "paragraph" or _PARAGRAPH.search(text, found.start(), start) is not None
    if start < len(text):
        yield Span(start, len(text), opens)


def finer(text: str, span: Span, level: Level, *, characters: int) -> Iterator[Span]:
    """A span cut into lines, else words, else runs of so many characters; the first part inherits `opens_paragraph`."""
    opens = span.opens_paragraph
    for start, end in _cuts(text, span, level, characters):
        yield Span(start, end, opens)
        opens = False


def merged(spans: Iterator[Span], characters: int) -> Iterator[Span]:
    """Neighbours joined until they have so many characters, never across a paragraph: fewer pieces to count."""
    held: Span | None = None
    for span in spans:
        if held is None:
            held = span
        elif span.opens_paragraph or held.end - held.start >= characters:
            yield held
            held = span
        else:
            held = Span(held.start, span.end, held.opens_paragraph)
    if held is not None:
        yield held


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; empty (`start == end`) when there is nothing else."""
    passage = text[start:end]
    left = len(passage) - len(passage.lstrip())
    if left == len(passage):
        return start, start
    return start + left, start + len(passage.rstrip())


def _cuts(text: str, span: Span, level: Level, characters: int) -> Iterator[tuple[int, int]]:
    if level == "character":
        for start in range(span.start, span.end, characters):
            yield start, min(start + characters, span.end)
        return
    start = span.start
    for found in _ENDS[level].finditer(text, span.start, span.end):
        yield start, found.end()
        start = found.end()
    if start < span.end:
        yield start, span.end


def _abbreviates(text: str, found: re.Match[str]) -> bool:
    """Whether the full stop belongs to a title or an initial ("Dr. Who", "J. Doe") rather than ends a sentence."""
    dot = found.start()
    if text[dot : dot + 2].rstrip() != "." or "\n" in found[0]:
        return False
    before = text[max(dot - 5, 0) : dot + 1]
    initial = len(before) >= 2 and before[-2].isupper() and (len(before) == 2 or before[-3].isspace())
    return initial or before.endswith(_TITLES)

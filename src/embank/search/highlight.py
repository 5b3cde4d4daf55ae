"""Which words of a passage match a question: by the analysis of the index of words, so that inflected forms match."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from embank.records import Span

Words = Callable[[str], list[str]]
"""The analysis of a text into the words that it is found by."""

# Letters and digits, as the index cuts words, and the marks that scripts write within a word: cutting there would leave
# pieces that the index does not know.
_WORD = re.compile(
    r"(?:[^\W_]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e\u0eb1-\u0ecd"
    r"\u0f71-\u0f84\u102b-\u103e\u17b4-\u17d3])+"
)


def spans(text: str, wanted: frozenset[str], words: Words) -> tuple[Span, ...]:
    """(start, end) of each word of `text` that is found by one of `wanted`, in code points, ascending."""
    if not wanted:
        return ()
    found = [(match.group(), match.span()) for match in _WORD.finditer(text)]
    of_word = forms(dict.fromkeys(word for word, _ in found), words)
    return tuple(span for word, span in found if not wanted.isdisjoint(of_word[word]))


def split(text: str) -> list[str]:
    """The words of a text as they are written."""
    return _WORD.findall(text)


def forms(distinct: Iterable[str], words: Words) -> dict[str, list[str]]:
    """What each of these words, as they are written, is found by: one word, or several, or none."""
    listed = list(distinct)
    analysed = words(" ".join(listed))
    if len(analysed) == len(listed):  # one for each: a call for all of them is some ten times as fast
        return {word: [form] for word, form in zip(listed, analysed, strict=True)}
    return {word: words(word) for word in listed}

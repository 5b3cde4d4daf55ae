"""Which words of a passage match a question: by the analysis of the index of words, so that inflected forms match."""

from __future__ import annotations

import unicodedata

from embank.records import Span
from embank.store.asking import Asked
from embank.store.words import Words


def spans(text: str, asked: Asked, words: Words) -> tuple[Span, ...]:
    """(start, end) of each word of `text` that is asked for, or begins as is asked for, in code points, ascending.

    Pieces of one word, as scripts without spaces and with signs within words are cut into, make one span.
    """
    wanted = frozenset(asked.words)
    if not wanted and not asked.beginnings:
        return ()
    found: list[Span] = []
    for word in words.of(text):
        if word.form in wanted or word.form.startswith(asked.beginnings):
            start, end = found[-1] if found else (-1, -1)
            if found and _is_within(text[end : word.start]):
                found[-1] = (start, max(end, word.end))
            else:
                found.append((word.start, word.end))
    return tuple(found)


def _is_within(between: str) -> bool:
    """Whether what stands between two pieces parts no words: nothing, as of overlapping ones, or signs of a script."""
    return all(unicodedata.category(each).startswith("M") for each in between)

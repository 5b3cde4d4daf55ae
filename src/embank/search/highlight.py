"""Which words of a passage match a question: by the analysis of the index of words, so that inflected forms match."""

from __future__ import annotations

from embank.records import Span
from embank.store.asking import Asked
from embank.store.words import Words


def spans(text: str, asked: Asked, words: Words) -> tuple[Span, ...]:
    """(start, end) of each word of `text` that is asked for, or begins as is asked for, in code points, ascending."""
    wanted = frozenset(asked.words)
    if not wanted and not asked.beginnings:
        return ()
    return tuple(
        (word.start, word.end)
        for word in words.of(text)
        if word.form in wanted or word.form.startswith(asked.beginnings)
    )

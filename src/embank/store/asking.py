"""What is asked of the lexical index: the words, phrases and beginnings of words of a text. Any text is a question.

Two signs mean something, where they are whole: `"…"` (or `“…”`) around words is a phrase, `embed*` a beginning. All
others are what lies between words, so there is no wrong question. Everything is bounded and read in linear time.

A phrase is no condition: passages that have it come before those that have its words here and there, and where no
passage has it, the words still count. Questions hold quotation marks that mean no more than emphasis, and who asks for
a phrase that is nowhere is better served with its words than with nothing.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from embank.store.words import Word, Words

_T = TypeVar("_T", bound=Hashable)

MAX_CHARACTERS = 8_192
"""Of a question; the rest is not looked at."""

MAX_PHRASES = 8
MAX_PHRASE_WORDS = 32
MAX_BEGINNINGS = 8
LEAST_BEGINNING = 2
"""Characters: fewer begin too much to be worth looking for."""

_QUOTED = re.compile('"([^"]*+)"|“([^“”]*+)”')
_BEGINNING = re.compile(r"(?<!\w)\w++\*(?!\w)")


@dataclass(frozen=True, slots=True)
class Asked:
    """`words` without repetition: those that say something, or where there is none of them, the stop words.

    `phrases`: each two words or more, stop words among them. `beginnings`: in lower case, without accents.
    """

    words: tuple[str, ...]
    phrases: tuple[tuple[str, ...], ...]
    beginnings: tuple[str, ...]


def asked(text: str, words: Words) -> Asked:
    """What `text` asks for, cut by `words`."""
    text = text[:MAX_CHARACTERS]
    every = words.of(text)
    telling = [word for word in every if not word.stop]
    phrases = [_phrase(words.of(found[1] or found[2] or "")) for found in _QUOTED.finditer(text)]
    if not telling:
        phrases.append(_phrase(every))  # words of which every passage is full: only their order tells anything
    beginnings = [word.form for word in every if word.part]
    for found in _BEGINNING.finditer(text):
        beginning = words.beginning(found[0][:-1])
        if beginning is not None and len(beginning) >= LEAST_BEGINNING:
            beginnings.append(beginning)
    return Asked(
        _distinct(word.form for word in (telling or every)),
        _distinct(phrase for phrase in phrases if len(phrase) > 1)[:MAX_PHRASES],
        _distinct(beginnings)[:MAX_BEGINNINGS],
    )


def _phrase(words: Iterable[Word]) -> tuple[str, ...]:
    return tuple(word.form for word in words)[:MAX_PHRASE_WORDS]


def _distinct(given: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(given))

"""The words of a text as the lexical index knows them: cut, folded, stemmed, each with the place it came from.

Pure: needs no index. What searches, what highlights and what asks for the words of a query all cut by this file, so
that they agree.

Words are runs of letters and digits, in lower case, without accents, stemmed as the language wants. Scripts that put no
space between words (Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese) are cut into overlapping pairs of characters
in every language, for a whole sentence would be one word otherwise. For `"trigrams"` all text is cut into overlapping
runs of three characters: whatever part of a name or sequence is asked for is found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from embank.errors import InvalidInput

if TYPE_CHECKING:
    import tantivy

VERSION = 1
"""Rises whenever the same text would be cut into other words."""

Language = Literal[
    "none",
    "trigrams",
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
]
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""`none`: neither stems nor stop words, for code and for what is of no language here."""

LONGEST_WORD_BYTES = 64
"""Longer ones are no words that anybody types; they are left out."""

_NO_STOP_WORDS = frozenset({"none", "trigrams", "arabic", "greek", "romanian", "tamil", "turkish"})
"""tantivy 0.27 has no list for these."""

# Without the signs of Thai, Lao, Burmese and Khmer that tantivy takes for no part of a word: they are passed over.
_UNSPACED = (
    "\u0e01-\u0e30\u0e32-\u0e3a\u0e31\u0e40-\u0e46\u0e4d\u0e81-\u0eb9\u0ebb-\u0ec6\u0ecd\u0edc-\u0edf"
    "\u1000-\u1036\u1038\u103b-\u1049\u1050-\u109d\u1780-\u17c8\u17d7\u17dc"
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003fffd"
)
_SIGNS = "\u0e47-\u0e4c\u0e4e\u0eba\u0ec8-\u0ecc\u0ece\u1037\u1039\u103a\u17c9-\u17d3\u17dd"
_PAIRS = re.compile(f"[{_UNSPACED}](?:[{_SIGNS}]*+[{_UNSPACED}])*+")
_TRIGRAMS = re.compile(r"[^\W_]++")
_DECOMPOSED = re.compile(r"[^\u0300-\u036f][\u0300-\u036f]++")


@dataclass(frozen=True, slots=True)
class Word:
    """`text[start:end]` (code points) is in the index as `form`.

    `stop`: the language has it among those that say nothing. `part`: it is shorter than the pieces that its script is
    cut into, so that it stands for all that begin with it.
    """

    form: str
    start: int
    end: int
    stop: bool = False
    part: bool = False


class Words:
    """Cuts the texts of one language. Thread-safe. Raises `InvalidInput` for a language that is not in `LANGUAGES`."""

    def __init__(self, language: Language = "english") -> None:
        import tantivy

        self.language = checked(language)
        self._piece, self._width = (_TRIGRAMS, 3) if language == "trigrams" else (_PAIRS, 2)
        folded = [tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold()]
        filters = list(folded)
        if language not in {"none", "trigrams"}:
            # Of English words an accent is no part; other languages tell their endings by them.
            filters.insert(2 if language == "english" else 1, tantivy.Filter.stemmer(language))
        self.analyzer = _built(filters)
        """For the text that `spread` gives."""
        self._folding = _built(folded)
        self._telling = None
        if language not in _NO_STOP_WORDS:
            self._telling = _built([tantivy.Filter.lowercase(), tantivy.Filter.stopword(language)])

    def spread(self, text: str) -> str:
        """The text for `analyzer`: composed, and what is cut into pieces already cut."""
        if text.isascii() and self._width == 2:
            return text
        return self._piece.sub(
            lambda run: " ".join(["", *(form for form, _, _ in self._pieces(run)), ""]), _composed(text)
        )

    def of(self, text: str) -> list[Word]:
        """The words of a text, in its order."""
        return list(self._words(text))

    def beginning(self, text: str) -> str | None:
        """What the last word of `text` looks like in the index but for its stem; `None` where it is cut into pieces."""
        composed = _composed(text)
        if self._piece.search(composed):
            return None
        folded = self._folding.analyze(composed)
        return folded[-1] if folded else None

    def _words(self, text: str) -> Iterator[Word]:
        places: list[int] | None = None
        if not unicodedata.is_normalized("NFC", text):
            text, places = _composed_with_places(text)
        for word in self._of_composed(text):
            if places is None:
                yield word
            else:
                yield Word(word.form, places[word.start], places[word.end], word.stop, word.part)

    def _of_composed(self, text: str) -> Iterator[Word]:
        start = 0
        for run in self._piece.finditer(text):
            yield from self._spaced(text, start, run.start())
            pieces = list(self._pieces(run))
            whole = [piece for piece in pieces if len(piece[0]) == self._width] or pieces[:1]
            forms = self.analyzer.analyze(" ".join(form for form, _, _ in whole))
            if len(forms) == len(whole):  # else folding made something else of one of them
                for form, (piece, first, past) in zip(forms, whole, strict=True):
                    yield Word(form, first, past, part=len(piece) < self._width)
            start = run.end()
        yield from self._spaced(text, start, len(text))

    def _spaced(self, text: str, start: int, end: int) -> Iterator[Word]:
        if start == end:
            return
        piece = text[start:end]
        telling = None
        if self._telling is not None:
            telling = {token.char_offset_from for token in self._telling.pre_tokenize(piece).tokens}
        for token in self.analyzer.pre_tokenize(piece).tokens:
            first = token.char_offset_from
            stop = telling is not None and first not in telling
            yield Word(token.text, start + first, start + token.char_offset_to, stop)

    def _pieces(self, run: re.Match[str]) -> Iterator[tuple[str, int, int]]:
        """Each piece of a run and where it stands; those that begin near its end are shorter."""
        if self._width == 2:
            places = [(letter.group(), letter.start()) for letter in _LETTER.finditer(run[0])]
        else:
            places = [(letter, place) for place, letter in enumerate(run[0])]
        for first in range(len(places)):
            piece = places[first : first + self._width]
            yield "".join(letter for letter, _ in piece), run.start() + piece[0][1], run.start() + piece[-1][1] + 1


_LETTER = re.compile(f"[{_UNSPACED}]")


def checked(language: object) -> Language:
    """`language`, if texts can be cut by it."""
    for known in LANGUAGES:
        if language == known:
            return known
    raise InvalidInput(f"{language!r} is no language of the lexical index: choose one of {', '.join(LANGUAGES)}")


def _built(filters: Iterable[tantivy.Filter]) -> tantivy.TextAnalyzer:
    import tantivy

    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for each in (tantivy.Filter.remove_long(LONGEST_WORD_BYTES), *filters):
        builder = builder.filter(each)
    return builder.build()


def _composed(text: str) -> str:
    if text.isascii():
        return text
    return _DECOMPOSED.sub(lambda cluster: unicodedata.normalize("NFC", cluster[0]), text)


def _composed_with_places(text: str) -> tuple[str, list[int]]:
    """The composed text, and where each of its characters, and its end, stands in `text`."""
    parts: list[str] = []
    places: list[int] = []
    start = 0
    for cluster in _DECOMPOSED.finditer(text):
        composed = unicodedata.normalize("NFC", cluster[0])
        parts += [text[start : cluster.start()], composed]
        places += [*range(start, cluster.start()), *[cluster.start()] * len(composed)]
        start = cluster.end()
    return "".join([*parts, text[start:]]), [*places, *range(start, len(text) + 1)]

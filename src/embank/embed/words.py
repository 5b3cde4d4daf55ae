"""Token ids by word, remembered: for tokenizers of which it can be shown that words have nothing to do with each other.

Llama's tokenizer writes `▁` for a blank and merges pairs over the whole text (BPE). Where no token of its vocabulary has
a `▁` behind another character, no merge reaches over the beginning of a word: then the ids of a text are those of its
words one after the other, and a word that was seen before need not be merged again, which is most of the time it takes.

What is remembered is bounded: two generations of words; a full younger one becomes the elder, which is dropped.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from embank.embed.engine import TokenIds

_BLANK = "▁"
_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": _BLANK},
        {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK},
    ],
}
_GENERATION_WORDS = 16_384
# Longer ones are seldom words, and seldom seen again.
_LONGEST_WORD = 24
WORDS_BYTES = 2 * _GENERATION_WORDS * 220
"""About what is remembered at most: a string, the bytes of its ids and a place in a dictionary for each word."""


class Words:
    """See the module. Thread-safe: what threads learn at the same time may at worst be learnt twice.

    `encode` gives the ids of whole texts, without special tokens, as the tokenizer itself does. A text with one of the
    `markers` in it is encoded whole.
    """

    def __init__(self, encode: Callable[[Iterable[str]], Iterable[Sequence[int]]], markers: Iterable[str]) -> None:
        self._encode = encode
        self._markers = (*markers, _BLANK)
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}

    def ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text, read-only."""
        young = self._young  # this call's: another thread may begin a new generation
        split = [None if self._is_whole(text) else _words(text) for text in texts]
        unknown = set(chain.from_iterable(words for words in split if words is not None)).difference(young)
        long = {word for word in unknown if len(word) > _LONGEST_WORD}
        if long:
            split = [None if words is None or not long.isdisjoint(words) else words for words in split]
        self._learn(young, unknown - long)
        whole = iter(self._encode(text for text, words in zip(texts, split, strict=True) if words is None))
        look_up = young.__getitem__
        return [
            np.array(next(whole), dtype=np.int32)
            if words is None
            else np.frombuffer(b"".join(map(look_up, words)), dtype=np.int32)
            for words in split
        ]

    def _is_whole(self, text: str) -> bool:
        """A blank at the end stands for itself; an empty text has no word."""
        return not text or text[-1] == " " or any(marker in text for marker in self._markers)

    def _learn(self, young: dict[str, bytes], unknown: set[str]) -> None:
        old = self._old
        new = []
        for word in unknown:
            ids = old.get(word)
            if ids is None:
                new.append(word)
            else:
                young[word] = ids
        for word, ids in zip(new, self._encode(new), strict=True):
            young[word] = array("i", ids).tobytes()
        if len(young) > _GENERATION_WORDS:
            self._old, self._young = young, {}


def in_words(tokenizer: Tokenizer, encode: Callable[[Iterable[str]], Iterable[Sequence[int]]]) -> Words | None:
    """`Words` over a tokenizer, or None for one of which it can't be shown to be exact."""
    told: dict[str, Any] = json.loads(tokenizer.to_str())
    model = told["model"]
    plain = ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "ignore_merges")
    if (
        model["type"] != "BPE"
        or told["normalizer"] != _NORMALIZER
        or told["pre_tokenizer"] is not None
        or any(model.get(name) for name in plain)
        or any(_BLANK in token.lstrip(_BLANK) for token in model["vocab"])
    ):
        return None
    return Words(encode, [token["content"] for token in told["added_tokens"]])


def _words(text: str) -> list[str]:
    """What the text is made of: of several blanks in a row all but one belong to the word behind them."""
    words = text.split(" ")
    if "" not in words:
        return words
    joined = []
    blanks = ""
    for word in words:
        if word:
            joined.append(blanks + word)
            blanks = ""
        else:
            blanks += " "
    return joined

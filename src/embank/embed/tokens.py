"""A model's tokenizer: ids for the engine, counts for whoever cuts text.

Wraps the `tokenizers` library. Special tokens and truncation are added here rather than by the library, whose
truncation keeps what it cut off: a text of a megabyte would cost 100 bytes a token for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embank.embed.engine import Encoded
from embank.embed.fragments import TABLE_BYTES, in_fragments
from embank.errors import ModelFileError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from embank.embed.engine import TokenIds

# The library's encodings take about 100 bytes a token: they are made for few texts at a time and dropped.
_GROUP_TEXTS = 64
_GROUP_CHARACTERS = 1 << 17
# Texts that are cut are cheaper in hundreds at a time; a character then takes up to 120 bytes of working memory.
_CUT_GROUP_TEXTS = 512
_CUT_GROUP_CHARACTERS = 1 << 16
# Measured on a BPE tokenizer: 1,000 are as fast as 10,000, and none is a quarter slower.
_CACHED_PIECES = 1000
# Beyond this, only as much of a text is read as can matter; see `Tokens.encode`.
_LEAST_READ_CHARACTERS = 1 << 16
_READ_CHARACTERS_A_TOKEN = 16

# Where a long text may be cut without changing its tokens: a single blank between two words.
_WORD_GAP = re.compile(r"(?<=\S) (?=\S)")


class Tokens:
    """Encodes and counts. Thread-safe: nothing changes after construction.

    `special=False` gives bare tokens; then a text without any token gets the tokenizer's first special token, so that
    every text has a vector. With `split` a text of more than `max_tokens` has several rows instead of being truncated.
    `vocabulary` is how many tokens the model's weights have: one beyond them would be looked up in whatever memory lies
    behind them. Raises `ModelFileError` when the file is missing, no tokenizer, or one that can't encode a text, and
    for a token outside the vocabulary.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_tokens: int,
        special: bool = True,
        lower_case: bool = False,
        split: bool = False,
        vocabulary: int = 1 << 31,
    ) -> None:
        self._path = path
        self._vocabulary = vocabulary
        self._tokenizer = _load(path)
        self._max_tokens = max_tokens
        self._lower_case = lower_case
        self._split = split
        try:
            self._before, self._after = _special_ids(self._tokenizer)
        except Exception as error:  # the library raises bare Exception
            raise self._unable(error) from error
        self._fallback = (self._before or self._after or (0,))[:1]
        if not special:
            self._before, self._after = (), ()
        if self._room < 1:
            raise ModelFileError(
                f"{path} puts {max_tokens - self._room} special tokens around a text, of which the model takes "
                f"{max_tokens} with them",
                path=str(path),
            )
        self._fragments = None if special else in_fragments(self._tokenizer, vocabulary=vocabulary)
        self.remembered_bytes = 0 if self._fragments is None else TABLE_BYTES
        self._read_characters = max(_LEAST_READ_CHARACTERS, _READ_CHARACTERS_A_TOKEN * max_tokens)
        self.file_bytes = path.stat().st_size

    def encode(self, texts: Sequence[str], *, prefix: str = "") -> Encoded:
        """int32 ids of each text, with special tokens, at most `max_tokens` a row, never empty.

        Truncating, of a text longer than 65,536 characters (or 16 a token, where that is more) the rest is not read: a
        text whose first tokens stand behind that many blanks is cut short. Splitting, all of it is read, in parts as
        `count` does, and the prefix stands before the first piece only.
        """
        return self._encode_split(texts, prefix) if self._split else self._encode_truncated(texts, prefix)

    def _encode_truncated(self, texts: Sequence[str], prefix: str) -> Encoded:
        cut, room = self._read_characters, self._room
        rows: list[TokenIds] = []
        truncated = 0
        for group in self._grouped(texts):
            bare = [_ids(found) for found in self._bare_group([prefix + text[:cut] for text in group])]
            if max(map(len, bare)) > room or max(map(len, group)) > cut:
                truncated += sum(len(ids) > room or len(text) > cut for text, ids in zip(group, bare, strict=True))
                bare = [ids[:room] for ids in bare]
            rows += self._packed(bare)
        return Encoded(rows, truncated=truncated)

    def _encode_split(self, texts: Sequence[str], prefix: str) -> Encoded:
        rows: list[TokenIds] = []
        owners: list[int] = []
        room = self._room
        for index, text in enumerate(texts):
            parts = self._bare(_parts(prefix + text, _LEAST_READ_CHARACTERS))
            ids = np.concatenate([np.array(_ids(part), dtype=np.uint32) for part in parts])
            pieces = self._packed([ids[start : start + room] for start in range(0, max(len(ids), 1), room)])
            rows += pieces
            owners += [index] * len(pieces)
        return Encoded(rows, np.array(owners, dtype=np.intp) if len(rows) > len(texts) else None)

    @property
    def _room(self) -> int:
        return self._max_tokens - len(self._before) - len(self._after)

    def _packed(self, bare: Sequence[Sequence[int] | TokenIds]) -> list[TokenIds]:
        """One row for each, with special tokens: views of one array, filled in one pass."""
        if self._fragments is not None:  # then these are such views, and nothing is added to them
            return [np.asarray(ids if len(ids) else self._fallback, dtype=np.int32) for ids in bare]
        whole = [(*self._before, *ids, *self._after) or self._fallback for ids in bare]
        stops = list(accumulate(map(len, whole)))
        flat = np.fromiter(chain.from_iterable(whole), dtype=np.uint32, count=stops[-1])
        if len(flat) and (largest := int(flat.max())) >= self._vocabulary:
            raise ModelFileError(
                f"{self._path} gives the token {largest}, but the model's weights have {self._vocabulary}: they are "
                f"not of one model",
                path=str(self._path),
                token=largest,
            )
        ids = flat.view(np.int32)
        return [ids[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens and untruncated.

        A text of more than 65,536 characters is counted in parts, cut between words where there is a single blank: a
        token more or less a part may result where there is none.
        """
        counts = [0] * len(texts)
        owners = []
        parts = []
        for index, text in enumerate(texts):
            for part in _parts(text, _LEAST_READ_CHARACTERS):
                owners.append(index)
                parts.append(part)
        for owner, found in zip(owners, self._bare(parts), strict=True):
            counts[owner] += len(found)
        return counts

    def _bare(self, texts: Iterable[str]) -> Iterator[Encoding | TokenIds]:
        """What each text is without special tokens, in order."""
        for group in self._grouped(texts):
            yield from self._bare_group(group)

    def _bare_group(self, texts: list[str]) -> Sequence[Encoding | TokenIds]:
        if self._lower_case:
            texts = [text.lower() for text in texts]
        try:
            if self._fragments is None:
                return self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            found = self._fragments.ids(texts)
            left = [text for text, ids in zip(texts, found, strict=True) if ids is None]
            encodings = iter(self._tokenizer.encode_batch_fast(left, add_special_tokens=False) if left else ())
        except Exception as error:  # the library raises bare Exception
            raise self._unable(error) from error
        return [next(encodings) if ids is None else ids for ids in found]

    def _grouped(self, texts: Iterable[str]) -> Iterator[list[str]]:
        if self._fragments is None:
            return _groups(texts, most_texts=_GROUP_TEXTS, most_characters=_GROUP_CHARACTERS)
        return _groups(texts, most_texts=_CUT_GROUP_TEXTS, most_characters=_CUT_GROUP_CHARACTERS)

    def _unable(self, error: Exception) -> ModelFileError:
        return ModelFileError(f"{self._path} can't encode a text: {error}", path=str(self._path))


def _load(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ModelFileError(f"the model has no tokenizer: {path} is missing", path=str(path))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelFileError(f"{path} is no tokenizer: {error}", path=str(path)) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # BPE and Unigram models remember up to 10,000 pieces of text for ever; WordPiece has no cache and no such method.
    resize = getattr(tokenizer.model, "_resize_cache", None)
    if resize is not None:
        resize(_CACHED_PIECES)
    return tokenizer


def _special_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer's template puts before and after a text."""
    bare = len(tokenizer.encode("a", add_special_tokens=False))
    whole = tokenizer.encode("a")
    ids, mask = whole.ids, whole.special_tokens_mask
    before = mask.index(0) if 0 in mask else len(mask)
    return tuple(ids[:before]), tuple(ids[before + bare :])


def _ids(found: Encoding | TokenIds) -> Sequence[int] | TokenIds:
    return found if isinstance(found, np.ndarray) else found.ids


def _groups(texts: Iterable[str], *, most_texts: int, most_characters: int) -> Iterator[list[str]]:
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and (len(group) == most_texts or characters + len(text) > most_characters):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def _parts(text: str, limit: int) -> Iterator[str]:
    """The text in parts of at most `limit` characters, cut at the last single blank of the second half, if any."""
    start = 0
    while len(text) - start > limit:
        gaps = [gap.start() for gap in _WORD_GAP.finditer(text, start + limit // 2, start + limit)]
        if gaps:
            yield text[start : gaps[-1]]
            start = gaps[-1] + 1  # the blank itself is no token
        else:
            yield text[start : start + limit]
            start += limit
    yield text[start:]

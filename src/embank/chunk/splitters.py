"""Packing a text into passages of at most so many tokens, as the model in use counts them.

Greedy, like a typesetter: pieces (sentences; lines, words or characters where a sentence is too long) are put into a
passage while they fit. When the next doesn't, the passage ends after its last whole paragraph if that leaves it at
least half full, else right there. Passages are counted again as they stand, since the counts of pieces needn't add up
to the count of the whole, and halved while they are over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from embank.chunk.pieces import FINER, Level, Span, finer, merged, sentences, trimmed
from embank.chunk.settings import MIN_TOKENS
from embank.errors import InvalidInput
from embank.records import Chunk

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""How many tokens each text has for the model, without special tokens."""

VERSION = 1
"""Rises whenever the same text would be cut differently."""

CHARS_PER_TOKEN = 16
"""A passage has at most so many characters for each token it may have, whatever its count: a tokenizer that takes a
megabyte without spaces for one unknown word must not make one passage of it."""

_WHOLE_CHARS_PER_TOKEN = 6  # text beyond this is hardly one passage; don't count it as a whole first
_COUNT_CHARS = 1 << 14  # counted in one call: what a tokenizer answers with takes many times the size of the text
_COUNT_PIECES = 1024


class _Piece(NamedTuple):
    span: Span
    tokens: int


class Splitter:
    """Cuts texts into passages. Immutable; as thread-safe as the counter.

    For every text: `chunk.text == text[chunk.start:chunk.end]`, nothing else than white space lies outside all
    passages, none is empty or begins or ends with white space, starts and ends rise, and none counts more than
    `max_tokens`. (One exception: a single character of more than `max_tokens` tokens is a passage of its own.)

    `overlap_tokens`: how much of a passage's end, in whole sentences, the next one begins with at most. Raises
    `InvalidInput` unless `max_tokens` is at least 8 and the overlap at most half of it.
    """

    def __init__(self, count_tokens: CountTokens, *, max_tokens: int, overlap_tokens: int = 0) -> None:
        if max_tokens < MIN_TOKENS:
            raise InvalidInput(f"max_tokens is {max_tokens}, but must be at least {MIN_TOKENS}", max_tokens=max_tokens)
        if not 0 <= overlap_tokens <= max_tokens // 2:
            raise InvalidInput(
                f"overlap_tokens is {overlap_tokens}, but must be from 0 to half of max_tokens ({max_tokens // 2})",
                overlap_tokens=overlap_tokens,
                max_tokens=max_tokens,
            )
        self._count_tokens = count_tokens
        self._max_tokens = max_tokens
        self._overlap_tokens = overlap_tokens
        self._max_chars = max_tokens * CHARS_PER_TOKEN
        self._merge_chars = max(1, max_tokens // 8)

    @property
    def recipe(self) -> str:
        """Names what the cuts depend on beside text and tokenizer; stored so that a change cuts anew."""
        return f"sentences-{VERSION}:{self._max_tokens}:{self._overlap_tokens}"

    def split(self, text: str) -> list[Chunk]:
        """The passages of a text, in its order; none for a blank text. Linear in the text's length."""
        start, end = trimmed(text, 0, len(text))
        if start == end:
            return []
        if self._fits_whole(text[start:end]):
            return [Chunk(text[start:end], start, end)]
        passages = self._packed(self._pieces(text))
        return [Chunk(text[start:end], start, end) for start, end in self._verified(text, passages)]

    def _fits_whole(self, text: str) -> bool:
        # An ASCII character is at most one token; one more for a tokenizer that sets a mark before the first.
        if len(text) < self._max_tokens and text.isascii():
            return True
        if len(text) > self._max_tokens * _WHOLE_CHARS_PER_TOKEN:
            return False
        return self._count([text])[0] <= self._max_tokens

    def _pieces(self, text: str) -> Iterator[_Piece]:
        """Counted pieces that each fit into a passage."""
        return self._fitting(text, merged(sentences(text), self._merge_chars), "sentence")

    def _fitting(self, text: str, spans: Iterable[Span], level: Level) -> Iterator[_Piece]:
        for piece in self._counted(text, spans):
            span, tokens = piece
            if tokens <= self._max_tokens:
                yield piece
            elif level == "character":
                yield from self._characters(text, span)
            else:
                parts = finer(text, span, FINER[level], characters=self._merge_chars)
                yield from self._fitting(text, merged(parts, self._merge_chars), FINER[level])

    def _characters(self, text: str, span: Span) -> Iterator[_Piece]:
        """A short run of characters that is still too long, one by one; what remains too long can't be helped."""
        for piece in self._counted(text, finer(text, span, "character", characters=1)):
            yield piece._replace(tokens=min(piece.tokens, self._max_tokens))

    def _counted(self, text: str, spans: Iterable[Span]) -> Iterator[_Piece]:
        """Pieces with their counts, counted in few calls; blank ones are left out.

        What has too many characters is over the limit without being counted: tokenizers may take quadratic time for
        one endless word.
        """
        waiting: list[Span] = []
        chars = 0
        for span in spans:
            start, end = trimmed(text, span.start, span.end)
            size = end - start
            if size == 0:
                continue
            if size > self._max_chars or chars + size > _COUNT_CHARS or len(waiting) == _COUNT_PIECES:
                yield from self._count_spans(text, waiting)
                waiting, chars = [], 0
            if size > self._max_chars:
                yield _Piece(Span(start, end, span.opens_paragraph), self._max_tokens + 1)
                continue
            waiting.append(Span(start, end, span.opens_paragraph))
            chars += size
        yield from self._count_spans(text, waiting)

    def _count_spans(self, text: str, spans: list[Span]) -> Iterator[_Piece]:
        counts = self._count([text[span.start : span.end] for span in spans])
        return map(_Piece, spans, counts)

    def _count(self, texts: list[str]) -> Sequence[int]:
        return self._count_tokens(texts) if texts else []

    def _packed(self, pieces: Iterator[_Piece]) -> Iterator[tuple[int, int]]:
        """Spans of passages, by the sum of their pieces' counts."""
        held: deque[_Piece] = deque()
        repeated = 0  # how many of the held pieces the passage before has, too
        for piece in pieces:
            while held and not self._fits(held, piece):
                if len(held) == repeated:
                    held.popleft()  # overlap and the next piece don't fit together: less overlap
                    repeated -= 1
                    continue
                ending = self._ending(held, repeated, piece)
                yield held[0].span.start, held[ending - 1].span.end
                repeated = self._overlap(held, ending)
                for _ in range(ending - repeated):
                    held.popleft()
            held.append(piece)
        if len(held) > repeated:
            yield held[0].span.start, held[-1].span.end

    def _fits(self, held: deque[_Piece], piece: _Piece) -> bool:
        if piece.span.end - held[0].span.start > self._max_chars:
            return False
        return sum(each.tokens for each in held) + piece.tokens <= self._max_tokens

    def _ending(self, held: deque[_Piece], repeated: int, following: _Piece) -> int:
        """After how many pieces the passage ends: at its last paragraph's end when that leaves it half full."""
        if following.span.opens_paragraph:
            return len(held)
        tokens = sum(piece.tokens for piece in held)
        half = min(tokens, self._max_tokens) / 2
        for index in range(len(held) - 1, repeated, -1):
            tokens -= held[index].tokens
            if tokens < half:
                break
            if held[index].span.opens_paragraph:
                return index
        return len(held)

    def _overlap(self, held: deque[_Piece], ending: int) -> int:
        """How many of the passage's last pieces the next one repeats; never all of them."""
        tokens = count = 0
        while count < ending - 1 and (tokens := tokens + held[ending - 1 - count].tokens) <= self._overlap_tokens:
            count += 1
        return count if self._overlap_tokens else 0

    def _verified(self, text: str, passages: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The passages within the limit, their starts and ends rising.

        Halving a passage can leave a part that lies in the one before, or begins after the next one's overlap does.
        """
        last_start = last_end = -1
        for start, end in self._within_limit(text, passages):
            if end <= last_end:
                continue
            rest = [(start, end)]
            if start <= last_start:
                rest = list(self._within_limit(text, [trimmed(text, last_end, end)]))
            yield from rest
            last_start, last_end = rest[-1]

    def _within_limit(self, text: str, passages: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The passages, counted as they stand; one that is over is halved until its parts are not."""
        spans = (Span(start, end, opens_paragraph=False) for start, end in passages)
        for span, tokens in self._counted(text, spans):
            if tokens <= self._max_tokens or span.end - span.start == 1:
                yield span.start, span.end
            else:
                yield from self._within_limit(text, self._halves(text, span))

    def _halves(self, text: str, span: Span) -> Iterator[tuple[int, int]]:
        """Two parts that are not blank, parted near the middle: after a sentence, else a word, else anywhere."""
        middle = (span.start + span.end) // 2
        passage = text[span.start : span.end]
        after_space = max(
            (span.start + piece.end for piece in sentences(passage) if span.start + piece.end <= middle), default=0
        )
        if after_space <= span.start + len(passage) // 4:
            after_space = max(text.rfind(" ", span.start, middle), text.rfind("\n", span.start, middle)) + 1
        cut = after_space if after_space > span.start else middle
        for start, end in ((span.start, cut), (cut, span.end)):
            first, last = trimmed(text, start, end)
            if first < last:
                yield first, last

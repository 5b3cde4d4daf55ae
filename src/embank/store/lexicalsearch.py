"""Searching one commit of a lexical index: which questions are put to tantivy, and what its answers mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embank.store.among import among, is_quicker
from embank.store.asking import Asked, asked
from embank.store.index.protocol import Filtering, Mask, Neighbors
from embank.store.words import Words

if TYPE_CHECKING:
    import tantivy

MAX_WORDS = 64
"""Of a question: of a longer one the rarest count, which say most. 256 take five times as long."""

MAX_VARIANTS = 32
"""Words that a beginning stands for: those that most passages have."""

PHRASE_BOOST = 2.0
"""A phrase counts for twice the sum of its words, which count besides: what has it comes before what does not."""

_SPARE = 1.3
_PADDED = 1_024
"""What was found is brought to as many as were asked for, up to so many: numpy keeps freed arrays of each length below
a kilobyte for ever, and lengths that are other ones with every search add up to a megabyte within thousands."""

_SHORTER = 3
_LEAST_STEM = 3


class LexicalSearcher:
    """Searches one commit of a lexical index. Thread-safe."""

    def __init__(
        self, schema: tantivy.Schema, words: Words, searcher: tantivy.Searcher, *, title_boost: float = 1.0
    ) -> None:
        """A word in a title counts `title_boost` times what it counts in a passage; 0 passes titles over."""
        self._schema = schema
        self._words = words
        self._searcher = searcher
        self._title_boost = title_boost

    @property
    def words(self) -> Words:
        """What its passages were cut by."""
        return self._words

    @property
    def documents(self) -> int:
        """Passages and the marker."""
        return self._searcher.num_docs

    def marker(self) -> str | None:
        """What the marker of this commit says; `None` before the first."""
        import tantivy

        hits = self._searcher.search(tantivy.Query.term_query(self._schema, "kind", "mark"), 1).hits
        return str(self._searcher.doc(hits[0][1]).get_first("mark")) if hits else None

    def terms(self, text: str) -> list[tuple[str, int]]:
        """Each distinct word that `text` asks for, as the index knows it, and in how many passages it is (0: none)."""
        return [(word, self.frequency(word)) for word in asked(text, self._words).words]

    def frequency(self, word: str) -> int:
        """In how many passages a word stands, in the form that the index knows."""
        return self._searcher.doc_freq("text", word)

    def search(self, text: str, k: int, *, allowed: Mask | None, below: int) -> Neighbors:
        """The `k` best passages by BM25 with a slot < `below` for which `allowed` is true; best first."""
        if not below or k < 1:
            return _none()
        it = asked(text, self._words)
        query = self._query(it)
        if query is None:
            return _none()
        limit = k
        filtering: Filtering | None = None
        if allowed is not None:
            places = np.flatnonzero(allowed[:below])
            if not len(places):
                return _none()
            if is_quicker(len(places), sum(map(self.frequency, it.words))):
                query, filtering = among(self._schema, query, places), "within"
            else:  # so many of the best should hold `k` that are allowed: to ask once for more is quicker than twice
                filtering = "after"
                limit = min(math.ceil(_SPARE * k * below / len(places)), max(self.documents, k))
        while True:
            hits = self._searcher.search(query, limit, count=False).hits
            if not hits:
                return _none()
            unfilled = max(min(limit, _PADDED) - len(hits), 0)
            found = self._searcher.fast_field_values("slot", [address for _, address in hits])
            slots = np.array([*found, *[below] * unfilled], np.int64)
            scores = np.array([*(score for score, _ in hits), *[0.0] * unfilled], np.float32)
            keep = slots < below
            if allowed is not None:
                keep &= allowed[np.where(keep, slots, 0)]
            kept = int(keep.sum())
            if kept >= k or len(hits) < limit:
                order = np.lexsort((slots, -scores, ~keep))[: min(kept, k)]
                return Neighbors(slots[order], scores[order], filtering)
            limit *= 4

    def _query(self, it: Asked) -> tantivy.Query | None:
        """Any of what is asked for that the index has; `None` where it has nothing of it."""
        import tantivy

        found = [*self._of_words(it.words), *self._of_beginnings(it.beginnings), *self._of_phrases(it.phrases)]
        return tantivy.Query.boolean_query([(tantivy.Occur.Should, each) for each in found]) if found else None

    def _of_words(self, words: Sequence[str]) -> list[tantivy.Query]:
        known = [(self._searcher.doc_freq("text", word), word) for word in words]
        titled = {word for word in words if self._title_boost and self._searcher.doc_freq("title", word)}
        known = [(count, word) for count, word in known if count or word in titled]
        if len(known) > MAX_WORDS:
            known = sorted(known)[:MAX_WORDS]
        queries = [self._term("text", word) for count, word in known if count]
        return queries + [self._boosted(self._term("title", word)) for _, word in known if word in titled]

    def _of_beginnings(self, beginnings: Sequence[str]) -> list[tantivy.Query]:
        return [query for each in beginnings if (query := self._of_beginning(each)) is not None]

    def _of_beginning(self, beginning: str) -> tantivy.Query | None:
        """All that begin so count as one word, which is as rare as they are together."""
        import tantivy

        variants = self._searcher.terms_with_prefix("text", beginning, limit=MAX_VARIANTS)
        if not variants:  # it may be longer than the stem of what begins so: of "parsi", "pars"
            shortest = max(len(beginning) - _SHORTER, _LEAST_STEM)
            stems = [beginning[:length] for length in range(len(beginning) - 1, shortest - 1, -1)]
            variants = [(stem, count) for stem in stems if (count := self._searcher.doc_freq("text", stem))][:1]
        if not variants:
            return None
        documents, count = self.documents, min(sum(count for _, count in variants), self.documents)
        weight = math.log1p((documents - count + 0.5) / (count + 0.5))
        return tantivy.Query.disjunction_max_query(
            [tantivy.Query.const_score_query(self._term("text", word), weight) for word, _ in variants]
        )

    def _of_phrases(self, phrases: Sequence[Sequence[str]]) -> list[tantivy.Query]:
        import tantivy

        queries = []
        for phrase in phrases:
            query = tantivy.Query.phrase_query(self._schema, "text", list(phrase))
            queries.append(tantivy.Query.boost_query(query, PHRASE_BOOST))
            if self._title_boost:
                query = tantivy.Query.phrase_query(self._schema, "title", list(phrase))
                queries.append(self._boosted(tantivy.Query.boost_query(query, PHRASE_BOOST)))
        return queries

    def _term(self, field: str, word: str) -> tantivy.Query:
        import tantivy

        return tantivy.Query.term_query(self._schema, field, word)

    def _boosted(self, query: tantivy.Query) -> tantivy.Query:
        import tantivy

        return tantivy.Query.boost_query(query, self._title_boost)


def _none() -> Neighbors:
    return Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))

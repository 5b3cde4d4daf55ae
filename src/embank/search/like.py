"""More like this: a document of the collection as the question, by its stored vectors and its most telling words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from embank.errors import DocumentNotFound
from embank.search.query import Query
from embank.store.index.protocol import Slots
from embank.store.snapshot import Snapshot

WORDS = 25
"""Of a document, for the lexical side: as many as Lucene's MoreLikeThis takes."""

_READ_CHARACTERS = 20_000
_LEAST_WORD = 2


def resembling(query: Query, snapshot: Snapshot) -> tuple[Query, Slots]:
    """The query in place of `query.like`, with a vector and words, and the slots of the document itself.

    The vector is the mean of the document's, of length 1 where the metric is cosine. Raises `DocumentNotFound`.
    """
    name = query.like or ""
    content = snapshot.contents_of([name]).get(name)
    if content is None:
        raise DocumentNotFound(f"collection {snapshot.info.name!r} has no document {name!r}", ids=[name])
    own = np.array(content.slots, np.int64)
    vector = None
    if len(own) and query.mode != "lexical":
        vector = snapshot.vectors(own).mean(axis=0, dtype=np.float32)
        length = float(np.linalg.norm(vector))
        if snapshot.info.metric == "cosine" and length:
            vector = (vector / length).astype(np.float32)
    text = " ".join(telling(content.text, snapshot)) if query.mode != "dense" else None
    return replace(query, text=text, vector=vector), own


def telling(text: str, snapshot: Snapshot) -> list[str]:
    """The words of a text that tell it from others, the most telling first: often there, and in few passages else.

    As they are written: what the index makes of them is made anew by the search.
    """
    words = snapshot.words
    if words is None:
        return []
    passages = max(snapshot.info.chunks, 1)
    counts: Counter[str] = Counter()
    spelt: dict[str, str] = {}
    for word in words.of(text[:_READ_CHARACTERS]):
        if not word.stop and not word.part and len(word.form) >= _LEAST_WORD:
            counts[word.form] += 1
            spelt.setdefault(word.form, text[word.start : word.end])
    weights = {
        form: count * math.log(1 + passages / frequency)
        for form, count in counts.items()
        if (frequency := snapshot.frequency(form))
    }
    return [spelt[form] for form in sorted(weights, key=lambda form: (-weights[form], form))[:WORDS]]

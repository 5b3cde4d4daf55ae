"""How long hybrid searches take over all of WordNet: 117,659 glosses, asked for by its words.

Times are of `Collection.search` with the question's vector given, one at a time: what embedding it takes is not in
them. Answers are not cached but where it says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import numpy as np

import embank
from benchmarks.embedded import Float32, corpus, embedded, say
from embank.bank import LocalCollection

_SHARE = 100
"""One document in so many has the number that is filtered by."""

_K = 10
_TIE = 1e-3
"""What storing vectors in halved precision changes of a score."""


def measure(documents: int | None, queries: int) -> dict[str, float | None]:
    """The figures, over all glosses or so many."""
    given = corpus(documents)
    vectors, asked = embedded(given)
    asked, words = asked[:queries], given.asked[:queries]
    with tempfile.TemporaryDirectory(prefix="embank-search-") as room:
        with embank.open(f"{room}/speed.bank", flags={"cache.results": False}) as bank:
            collection = bank.collection("wordnet")
            for first in range(0, len(given.texts), 8_192):
                rows = [
                    {"id": str(n), "text": given.texts[n], "metadata": {"part": n % _SHARE}}
                    for n in range(first, min(first + 8_192, len(given.texts)))
                ]
                collection.add(rows, vectors=vectors[first : first + len(rows)].astype(np.float32))
            say(f"indexed: {collection.vector_index.refresh()}")
            hybrid = _times(lambda n: collection.search(words[n], vector=asked[n], k=_K), len(words))
            filtered = _times(
                lambda n: collection.search(words[n], vector=asked[n], k=_K, where={"part": n % _SHARE}), len(words)
            )
            recall = _filtered_recall(collection, vectors.astype(np.float32), asked)
        with embank.open(f"{room}/speed.bank") as bank:
            kept = bank.collection("wordnet")
            kept.search(words[0], vector=asked[0], k=_K)
            cached = _times(lambda _: kept.search(words[0], vector=asked[0], k=_K), 200)
    return {
        "documents": len(given.texts),
        "p50_ms": float(np.percentile(hybrid, 50)),
        "p99_ms": float(np.percentile(hybrid, 99)),
        "filtered_p50_ms": float(np.percentile(filtered, 50)),
        "filtered_p99_ms": float(np.percentile(filtered, 99)),
        "filtered_recall": recall,
        "cached_ms": float(np.median(cached)),
    }


def _times(act: Callable[[int], object], count: int) -> list[float]:
    """Milliseconds of each, the first ten not counted."""
    taken = []
    for number in [*range(min(10, count)), *range(count)]:
        started = time.perf_counter()
        act(number)
        taken.append(1_000 * (time.perf_counter() - started))
    return taken[min(10, count) :]


def _filtered_recall(collection: LocalCollection, vectors: Float32, asked: Float32) -> float:
    """Of dense searches with the filter; what scores as well as the tenth counts, since texts repeat."""
    shares = []
    for number, query in enumerate(asked):
        part = number % _SHARE
        exact = np.sort(vectors[part::_SHARE] @ query)[::-1][:_K]
        hits = collection.search(None, vector=query, k=_K, where={"part": part}, mode="dense")
        found = np.array([hit.score for hit in hits if int(hit.id) % _SHARE == part])
        shares.append(min((found >= exact[-1] - _TIE).sum() / len(exact), 1.0))
    return float(np.mean(shares))

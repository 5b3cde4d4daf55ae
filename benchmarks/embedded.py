"""Real embeddings to measure indexes with: glosses of WordNet, and its words as what is asked.

The texts are embedded once with MiniLM int8, as the product does it: 384 dimensions, about five minutes on two quiet
cores. They are kept under .build/corpora part by part, so that a run that broke off goes on, and are never committed.
Words against glosses are short questions against longer texts, as in life; of a million rows one can't have as many
texts, so they are `extended`.

Without WordNet (another system, no network) docstrings of the standard library stand in, asked for by words out of
them; the name of the corpus says so.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import corpora

Float32 = npt.NDArray[np.float32]
Float16 = npt.NDArray[np.float16]

DIMENSION = 384
QUESTIONS = 2_000
_PART = 8_192
_CELLS = 1_024
_BLOCK = 8_192


@dataclass(frozen=True)
class Corpus:
    """Texts with the words that ask for them."""

    name: str
    texts: list[str]
    asked: list[str]

    @cached_property
    def room(self) -> Path:
        """Where its vectors are kept."""
        return corpora.ROOM / f"minilm-int8-{self.name.replace(' ', '-').lower()}"


def corpus(limit: int | None = None) -> Corpus:
    """All there is, in a fixed random order, or the first `limit` texts."""
    pairs = corpora.senses()
    chosen = random.Random(7)
    if pairs:
        chosen.shuffle(pairs)
        words = list(dict.fromkeys(word for word, _ in pairs))
        return Corpus("WordNet", [gloss for _, gloss in pairs][:limit], words[:QUESTIONS])
    _, texts = corpora.wordnet(limit or 20_000)
    cut = [text.split() for text in chosen.choices(texts, k=QUESTIONS)]
    return Corpus("standard library", texts, [" ".join(words[: chosen.randint(1, 3)]) or "word" for words in cut])


def embedded(given: Corpus) -> tuple[Float16, Float32]:
    """Vectors of the texts, shape (n, 384), float16; and of what is asked, float32. Made where they are not there."""
    given.room.mkdir(parents=True, exist_ok=True)
    spans = [(first, min(first + _PART, len(given.texts))) for first in range(0, len(given.texts), _PART)]
    parts = [given.room / f"{first:07d}-{past:07d}.npy" for first, past in spans]
    asked = given.room / "asked.npy"
    missing = [part for part in (*parts, asked) if not part.exists()]
    if missing:
        from embank.embed.models import load

        model, started = load("minilm"), time.perf_counter()
        for number, part in enumerate(missing):
            texts = given.asked if part is asked else given.texts[slice(*spans[parts.index(part)])]
            vectors = model.embed(texts, "query" if part is asked else "passage")
            _save(part, vectors.astype(np.float32 if part is asked else np.float16))
            say(f"embedded {number + 1} of {len(missing)} parts in {time.perf_counter() - started:,.0f} s")
        model.close()
    return np.concatenate([np.load(part) for part in parts]), np.load(asked)


def extended(given: Corpus, count: int) -> tuple[Float16, npt.NDArray[np.int32]]:
    """`count` unit vectors, mapped from a file that is made where it is missing, and of which text each is.

    The embeddings themselves come first. Each further row is a mixture of two of them that lie in the same of 1,024
    cells (k-means), with a weight of 0.3 to 0.7, made one long: between neighbours, where a further text of the kind
    would lie. Gaussian noise would be nobody's neighbour.
    """
    vectors, sources = (given.room / f"{count}-of-{len(given.texts)}-{what}.npy" for what in ("vectors", "sources"))
    if not sources.exists():
        base, _ = embedded(given)
        random_rows = np.random.default_rng(5)
        of = np.arange(count, dtype=np.int32) % len(base)
        partner = np.arange(count, dtype=np.int32)  # of the first rows, themselves
        of[len(base) :] = random_rows.integers(0, len(base), max(count - len(base), 0))
        partner[len(base) :] = _neighbours(base, of[len(base) :], random_rows)
        weight = random_rows.uniform(0.3, 0.7, (count, 1)).astype(np.float32)
        room = vectors.with_suffix(".part")
        out = np.lib.format.open_memmap(room, "w+", np.float16, (count, DIMENSION))
        for first in range(0, count, _BLOCK):
            block = slice(first, first + _BLOCK)
            mixed = weight[block] * base[of[block]] + (1 - weight[block]) * base[partner[block]]
            out[block] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        out.flush()
        room.rename(vectors)
        _save(sources, of)
    return np.load(vectors, mmap_mode="r"), np.load(sources)


def nearest(vectors: Float16, asked: Float32, k: int = 10) -> tuple[npt.NDArray[np.int64], Float32]:
    """Rows and inner products of the `k` nearest of each question, by looking at all; shape (questions, k)."""
    best = np.empty((len(asked), 0), np.float32)
    rows = np.empty((len(asked), 0), np.int64)
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK].astype(np.float32)
        best = np.concatenate((best, asked @ block.T), axis=1)
        here = np.broadcast_to(np.arange(first, first + len(block)), (len(asked), len(block)))
        rows = np.concatenate((rows, here), axis=1)
        kept = np.argpartition(-best, k - 1, axis=1)[:, :k]
        best, rows = np.take_along_axis(best, kept, 1), np.take_along_axis(rows, kept, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(rows, order, 1), np.take_along_axis(best, order, 1)


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def _neighbours(base: Float16, of: npt.NDArray[np.int32], random_rows: np.random.Generator) -> npt.NDArray[np.int32]:
    """For each of `of` another row of its cell."""
    import faiss

    cells = faiss.Kmeans(DIMENSION, min(_CELLS, len(base) // 39), niter=8, seed=5, spherical=True)
    cells.train(base[::3].astype(np.float32))
    cell = np.concatenate(
        [cells.index.search(each.astype(np.float32), 1)[1][:, 0] for each in np.array_split(base, 16)]
    )
    order = np.argsort(cell, kind="stable").astype(np.int32)
    first, past = (np.searchsorted(cell[order], cell, side=side) for side in ("left", "right"))
    within = random_rows.random(len(of))
    chosen: npt.NDArray[np.int32] = order[(first[of] + within * (past[of] - first[of])).astype(np.int64)]
    return chosen


def _save(path: Path, values: npt.NDArray[np.generic]) -> None:
    """Whole or not at all."""
    room = path.with_suffix(".part")
    with room.open("wb") as file:
        np.save(file, values)
    room.rename(path)

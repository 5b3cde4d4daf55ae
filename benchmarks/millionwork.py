"""One act on the bank of a million vectors, in a process of its own: `python -m benchmarks.millionwork ACT ROOM ROWS`.

For `benchmarks.million`, which says what is measured and watches from outside; the answer is one JSON object, the last
line of standard output. ROOM holds the bank, and what is asked with the right answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import embank
from benchmarks.embedded import Corpus, Float32, corpus, extended, say
from benchmarks.sampling import held_bytes
from embank.memory import hygiene
from embank.store.index.faiss import require

NAME = "million"
BUDGET = "256MB"
_ADDED = 8_192
_CHANGES = 300
_TURNS = 5
_PER_TURN = 200
_EF = 128
_TIE = 5e-5
"""What storing in half precision changes of a score."""

Told = dict[str, Any]


class Work:
    """The room of a run. `texts`: embeddings that are real; the rest of `rows` are mixtures of them."""

    def __init__(self, room: Path, rows: int, texts: int) -> None:
        self.room = room
        self.rows = rows
        self.texts = texts
        self.bank = room / "bank"

    def corpus(self) -> Corpus:
        """What the vectors are of."""
        return corpus(self.texts)

    @contextlib.contextmanager
    def opened(self, *, memory: str = BUDGET, **flags: object) -> Iterator[tuple[embank.Bank, Any]]:
        """The bank and its collection, without a cache of answers."""
        given = {"cache.results": False, **{key.replace("__", "."): value for key, value in flags.items()}}
        with embank.open(self.bank, memory=memory, own_process=True, flags=given) as bank:
            yield bank, bank.collection(NAME)

    def asked(self) -> tuple[Float32, Float32]:
        """Questions, and for each the ten best scores there are, descending."""
        with np.load(self.room / "truth.npz") as kept:
            return kept["asked"], kept["scores"]


def ingest(work: Work) -> Told:
    """Store all vectors with texts and metadata, from where an earlier run ended, and embed some texts for comparison.

    What is measured is the time inside `add`: documents are made before.
    """
    vectors, sources = extended(work.corpus(), work.rows)
    texts = work.corpus().texts
    with work.opened() as (_, collection):
        first = there = collection.count()
        inside = 0.0
        for first in range(there, work.rows, _ADDED):
            past = min(first + _ADDED, work.rows)
            documents = [
                {"id": _id(row), "text": texts[sources[row]], "metadata": {"shelf": row % 100}}
                for row in range(first, past)
            ]
            block = vectors[first:past].astype(np.float32)
            started = time.perf_counter()
            collection.add(documents, vectors=block)
            inside += time.perf_counter() - started
            if not (past // _ADDED) % 10:
                say(f"stored {past:,} of {work.rows:,}, {(past - there) / inside:,.0f} a second")
        started = time.perf_counter()
    closing = time.perf_counter() - started
    return {"stored": work.rows - there, "store_s": inside + closing, "close_s": closing}


def embed(work: Work) -> Told:
    """What embedding a text takes, in calls of as many as a window of an ingestion holds."""
    model = embank.models.load("minilm")
    texts = work.corpus().texts[:2_048]
    model.embed(texts[:256])
    started = time.perf_counter()
    for first in range(0, len(texts), 256):
        model.embed(texts[first : first + 256])
    seconds = time.perf_counter() - started
    model.close()
    return {"embedded": len(texts), "embed_s": seconds}


def search(work: Work) -> Told:
    """Open, ask once, then ask everything, one at a time, through the collection."""
    asked, best = work.asked()
    require()  # libraries are no part of the index
    import_module("embank.bank")
    started = time.perf_counter()
    with work.opened() as (_, collection):
        open_s = time.perf_counter() - started
        started = time.perf_counter()
        collection.stats()
        stats_s = time.perf_counter() - started
        collection.get(_id(0))
        before = held_bytes(os.getpid())
        started = time.perf_counter()
        collection.search(vector=asked[0], k=10)
        first_s = time.perf_counter() - started
        for query in asked[:_PER_TURN]:
            collection.search(vector=query, k=10)
        after = held_bytes(os.getpid())
        found, taken = [], []
        for query in asked:
            started = time.perf_counter()
            found.append(collection.search(vector=query, k=10))
            taken.append(time.perf_counter() - started)
        status = collection.vector_index.status()
    return {
        "open_s": open_s,
        "stats_ms": 1e3 * stats_s,
        "first_search_s": first_s,
        "index_anon_mb": (after - before) / 1e6,
        "index": status.as_dict(),
        "recalls": _recalls(work, asked, best, found),
        **_rates(taken),
    }


def cold(work: Work) -> Told:
    """Ask everything once, one at a time, with nothing of the bank in the page cache; the first is told apart."""
    asked, best = work.asked()
    with work.opened() as (_, collection):
        found, taken = [], []
        for query in asked:
            started = time.perf_counter()
            found.append(collection.search(vector=query, k=10))
            taken.append(time.perf_counter() - started)
    return {"first_s": taken[0], "recalls": _recalls(work, asked, best, found), **_rates(taken[1:])}


def changes(work: Work) -> Told:
    """Upserts and deletions of one document each, each durable when it returns; and searches among what they left."""
    asked, _ = work.asked()
    vectors, _ = extended(work.corpus(), work.rows)
    chosen = np.random.default_rng(9).choice(work.rows, 2 * _CHANGES, replace=False).tolist()
    with work.opened() as (_, collection):
        collection.search(vector=asked[0], k=10)
        stored, deleted, searched = [], [], []
        for row, other in zip(chosen[:_CHANGES], chosen[_CHANGES:], strict=True):
            given = {"id": _id(row), "text": f"changed {time.time_ns()}", "metadata": {"shelf": row % 100}}
            vector = vectors[other][None].astype(np.float32)
            started = time.perf_counter()
            collection.add([given], vectors=vector)
            stored.append(time.perf_counter() - started)
        for row in chosen[_CHANGES:]:
            started = time.perf_counter()
            collection.delete(_id(row))
            deleted.append(time.perf_counter() - started)
        for query in asked[:_PER_TURN]:
            started = time.perf_counter()
            collection.search(vector=query, k=10)
            searched.append(time.perf_counter() - started)
    return {
        **{f"upsert_{key}": value for key, value in _rates(stored).items()},
        **{f"delete_{key}": value for key, value in _rates(deleted).items()},
        **{f"after_changes_{key}": value for key, value in _rates(searched).items()},
    }


def thin(work: Work) -> Told:
    """Delete a tenth, for a compaction to have something to do."""
    with work.opened() as (_, collection):
        started = time.perf_counter()
        deleted = collection.delete(where={"shelf": {"$lt": 10}})
        return {"deleted": deleted, "delete_tenth_s": time.perf_counter() - started}


def hnsw(work: Work) -> Told:
    """FAISS's HNSW32 over float32 of the same vectors, kept in the room; and both asked in turns in this process."""
    faiss = require()
    asked, best = work.asked()
    vectors, _ = extended(work.corpus(), work.rows)
    path = work.room / "hnsw.faiss"
    if path.exists():
        graph, build_s = faiss.read_index(str(path)), float((work.room / "hnsw.seconds").read_text())
    else:
        graph, build_s = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT), 0.0
        for first in range(0, work.rows, 65_536):
            block = vectors[first : first + 65_536].astype(np.float32)
            started = time.perf_counter()
            graph.add(block)
            build_s += time.perf_counter() - started
            say(f"HNSW over {first + len(block):,} in {build_s:,.0f} s")
        (work.room / "hnsw.seconds").write_text(str(build_s))
        faiss.write_index(graph, str(path))
    faiss.omp_set_num_threads(1)
    parameters = faiss.SearchParametersHNSW(efSearch=_EF)
    rows = [graph.search(query[None], 10, params=parameters)[1][0] for query in asked]
    recalls = [
        float((vectors[row[row >= 0]].astype(np.float32) @ query >= least - _TIE).sum()) / 10
        for row, query, least in zip(rows, asked, best[:, -1], strict=True)
    ]
    with work.opened(memory="8GB") as (_, collection):  # the graph is in this process, too
        ways: dict[str, Callable[[Float32], Any]] = {
            "embank": lambda query: collection.search(vector=query, k=10),
            "hnsw": lambda query: graph.search(query[None], 10, params=parameters),
        }
        turns: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(_TURNS + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                for query in asked[:_PER_TURN]:
                    way(query)
                if turn:  # the first warms up
                    turns[name].append(_PER_TURN / (time.perf_counter() - started))
    return {
        "build_s": build_s,
        "recalls": recalls,
        **{f"qps_{name}": statistics.median(t) for name, t in turns.items()},
    }


def _id(row: int) -> str:
    return f"v{row:07d}"


def _recalls(work: Work, asked: Float32, best: Float32, found: list[Any]) -> list[float]:
    """Of each question; what scores as well as the tenth counts, since texts repeat. Scores are computed here."""
    vectors, _ = extended(work.corpus(), work.rows)
    told = []
    for query, least, hits in zip(asked, best[:, -1], found, strict=True):
        rows = np.asarray([int(hit.id[1:]) for hit in hits], np.int64)
        told.append(float((vectors[rows].astype(np.float32) @ query >= least - _TIE).sum()) / 10)
    return told


def _rates(taken: list[float]) -> Told:
    return {
        "qps": len(taken) / sum(taken),
        "p50_ms": 1e3 * float(np.percentile(taken, 50)),
        "p99_ms": 1e3 * float(np.percentile(taken, 99)),
    }


ACTS = {each.__name__: each for each in (ingest, embed, search, cold, changes, thin, hnsw)}


def main() -> None:
    """Do it and say what came of it."""
    act, room, rows, texts = sys.argv[1:]
    hygiene.apply()
    print(json.dumps(ACTS[act](Work(Path(room), int(rows), int(texts)))))


if __name__ == "__main__":
    main()

"""The vector index against FAISS's HNSW on the same vectors: `python -m benchmarks.index --json`.

recall_at_10          of Embank's index as the planner chose it, rescored, against the exact scan
recall_at_10_low      its lower 95 % bound over the queries
bytes_per_vector      what its codes hold in memory
ram_ratio_vs_hnsw     that over what HNSW32 over float32 holds
qps_ratio_vs_hnsw     searches a second, one at a time in one thread, over HNSW's with ef 128
build_ratio_vs_hnsw   seconds to train and fill it over HNSW's; measuring candidates apart (plan_s)
hnsw_recall_at_10     of HNSW

Documents are WordNet's glosses (without them, docstrings), embedded by a static model: quick to make, real
neighbourhoods. Queries are one to three words out of texts that are not stored: short against long, as in life.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import wordnet
from benchmarks.report import Mark, publish
from embank.embed.models import load
from embank.store.codec import Codec
from embank.store.index import building, faiss
from embank.store.index.backend import Home
from embank.store.index.exact import ExactIndex
from embank.store.index.methods import Method
from embank.store.index.planner import Planner, Questions, lower_bound
from embank.store.index.protocol import Float32
from embank.store.index.rescored import RescoredIndex
from embank.store.index.settings import Settings
from embank.store.vectors import Rows, Segments
from embank.system.files import Files

MARKS = {
    "recall_at_10": Mark(">=", 0.99),
    "ram_ratio_vs_hnsw": Mark("<=", 1 / 12),
    "qps_ratio_vs_hnsw": Mark(">=", 1.0),
    "build_ratio_vs_hnsw": Mark("<=", 0.5),
}
_LINKS, _EF = 32, 128
_PLANNED_WITH = 400


def measure(documents: int, queries: int, kind: str) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Figures and detail for so many documents."""
    corpus, texts = wordnet(documents + queries + _PLANNED_WITH)
    model = load("wordllama")
    vectors = np.concatenate([model.embed(texts[first : first + 4_096]) for first in range(0, documents, 4_096)])
    vectors = vectors[:documents]
    random_words = random.Random(3)
    short = [_words(text, random_words) for text in texts[documents:]]
    asked = np.asarray(model.embed(short, "query"))
    test, planned = asked[:queries], asked[queries:]
    with tempfile.TemporaryDirectory() as room, faiss.bounded_threads(1):
        segments = Segments(Path(room) / "v", Codec("fp16", vectors.shape[1]), files=Files())
        segments.append(vectors, mark=0)
        rows = segments.rows(len(vectors))
        settings = Settings(kind="auto") if kind == "auto" else Settings.model_validate({"kind": kind})
        started = time.perf_counter()
        method, table = _method(settings, rows, planned)
        plan_s = time.perf_counter() - started
        started = time.perf_counter()
        codes, trained = building.trained(method, rows, home=Home(Path(room), "", settings), dead=None, governor=None)
        building.fill(codes, rows, governor=None, going=lambda: True)
        build_s = time.perf_counter() - started
        index = RescoredIndex(codes, rows, depth=method.rescored, exhaustive=method.exhaustive)
        exact = ExactIndex(rows)
        truth = [exact.search(query, 10) for query in test]
        hnsw, hnsw_s = _hnsw(vectors)
        ways: dict[str, Callable[[Float32], Any]] = {
            "embank": lambda query: index.search(query, 10).slots,
            "hnsw": hnsw,
        }
        speed = _speeds(ways, test)
        recalls = {name: _recalls(way, test, truth, rows) for name, way in ways.items()}
    hnsw_bytes = 4 * vectors.shape[1] + 8 * _LINKS + 20
    figures: dict[str, float | None] = {
        "recall_at_10": float(recalls["embank"].mean()),
        "recall_at_10_low": lower_bound(recalls["embank"]),
        "bytes_per_vector": codes.used_bytes() / len(vectors),
        "ram_ratio_vs_hnsw": codes.used_bytes() / len(vectors) / hnsw_bytes,
        "qps": speed["embank"],
        "qps_ratio_vs_hnsw": speed["embank"] / speed["hnsw"],
        "build_ratio_vs_hnsw": build_s / hnsw_s,
        "plan_s": plan_s,
        "build_s": build_s,
        "hnsw_recall_at_10": float(recalls["hnsw"].mean()),
        "hnsw_recall_at_10_low": lower_bound(recalls["hnsw"]),
        "hnsw_bytes_per_vector": float(hnsw_bytes),
        "hnsw_qps": speed["hnsw"],
    }
    detail = {
        "corpus": corpus,
        "vectors": len(vectors),
        "dimension": vectors.shape[1],
        "queries": len(test),
        "method": method.name,
        "trained_rows": trained,
        "plan": table,
    }
    return figures, detail


def _method(settings: Settings, rows: Rows, questions: Float32) -> tuple[Method, list[dict[str, Any]]]:
    if settings.kind != "auto":
        return settings.method(settings.kind, rows.codec.dimension, len(rows)), []
    planner = Planner(settings, limit_bytes=1 << 40, going=lambda: True)
    plan = planner.plan(rows, None, Questions(questions, "short questions"))
    table = [
        {
            "name": each.method.name,
            "recall": round(each.recall, 4),
            "recall_low": round(each.recall_low, 4),
            "query_ms": round(1e3 * each.query_s, 3),
            "bytes": round(each.method.row_bytes, 1),
        }
        for each in plan.trials
    ]
    assert plan.chosen is not None
    return plan.chosen, table


def _hnsw(vectors: Float32) -> tuple[Callable[[Float32], Any], float]:
    library = faiss.require()
    graph = library.IndexHNSWFlat(vectors.shape[1], _LINKS, library.METRIC_INNER_PRODUCT)
    started = time.perf_counter()
    graph.add(vectors)
    seconds = time.perf_counter() - started
    parameters = library.SearchParametersHNSW(efSearch=_EF)
    return lambda query: graph.search(query[None], 10, params=parameters)[1][0], seconds


def _recalls(way: Callable[[Float32], Any], queries: Float32, truth: list[Any], rows: Rows) -> Any:
    """Of each query; what scores as well as the tenth counts, since texts repeat."""
    found = []
    for query, exact in zip(queries, truth, strict=True):
        slots = np.asarray([slot for slot in way(query) if slot >= 0])
        scores = rows.gather(slots) @ query
        found.append(float((scores >= exact.scores[-1] - 1e-6).sum()) / len(exact.scores))
    return np.asarray(found)


def _speeds(ways: dict[str, Callable[[Float32], Any]], queries: Float32) -> dict[str, float]:
    """Searches a second, the median of five turns taken one after the other."""
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            started = time.perf_counter()
            for query in queries[:200]:
                way(query)
            turns[name].append(200 / (time.perf_counter() - started))
    return {name: statistics.median(each) for name, each in turns.items()}


def _words(text: str, chosen: random.Random) -> str:
    words = text.split()
    first = chosen.randrange(len(words)) if words else 0
    return " ".join(words[first : first + chosen.randint(1, 3)]) or "word"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--kind", default="auto", help="a kind of index instead of the planner's choice")
    given = parser.parse_args()
    figures, detail = measure(given.documents, given.queries, given.kind)
    publish("index", figures, MARKS, detail, as_json=given.json)
    if not given.json:
        print(json.dumps(detail["plan"], indent=1))


if __name__ == "__main__":
    main()

"""Embank's vector index against FAISS's HNSW, Chroma, LanceDB, Annoy and usearch: `python -m benchmarks.index --json`.

The vectors are glosses of WordNet embedded with MiniLM, 384 dimensions (`benchmarks.embedded`); the questions are its
words: short against longer, as in life. Each library has a process and, but for FAISS, an environment of its own, and
is tried with every set of parameters in `GRID`. All are asked one question at a time, in turns, so that what else the
machine does hits them alike. Memory is anonymous and shared, seen from outside, beyond what the process held with the
library imported and before it had any vectors; text, metadata and durability are not part of it.

recall_at_10, …_low       of Embank's index as the planner chose it, rescored; and its lower 95 % bound
ram_ratio_vs_hnsw         bytes a vector over those of HNSW32 over float32
qps_ratio_vs_hnsw         over the fastest HNSW of the grid that finds no less; over the best where none does
build_ratio_vs_hnsw       seconds to train and fill it over HNSW's, one thread each; measuring candidates apart (plan_s)
peers_ahead_recall        peers that with any parameters of the grid find more
peers_ahead_ram           peers that with any of them hold less
peers_ahead_speed         peers that with any of them find no less and are as fast or faster
pq_saved_pct, pq_loss_pct what a flat index of float32 holds, saved by PQ codes; and the recall lost by it
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.embedded import Float16, Float32, corpus, embedded, nearest, say
from benchmarks.peers import INDEXES, python_of
from benchmarks.report import Mark, publish
from benchmarks.sampling import held_bytes
from embank.store.index.planner import QUESTIONS, lower_bound

MARKS = {
    "recall_at_10_low": Mark(">=", 0.99),
    "ram_ratio_vs_hnsw": Mark("<=", 1 / 12),
    "qps_ratio_vs_hnsw": Mark(">=", 1.0),
    "build_ratio_vs_hnsw": Mark("<=", 0.5),
    "peers_ahead_recall": Mark("<=", 0),
    "peers_ahead_ram": Mark("<=", 0),
    "peers_ahead_speed": Mark("<=", 0),
    "pq_saved_pct": Mark(">=", 50),
    "pq_loss_pct": Mark("<", 1),
}
GRID: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {
    "hnsw": [({"links": 32}, [{"ef": 128}, {"ef": 512}])],
    "chroma": [({"links": links, "ef": ef}, [{}]) for links in (16, 32) for ef in (128, 512)],
    "lancedb": [
        ({"kind": "IVF_HNSW_SQ"}, [{"probes": 1, "refine": 10, "ef": ef} for ef in (150, 500)]),
        ({"kind": "IVF_PQ"}, [{"probes": probes, "refine": refine} for probes, refine in ((20, 10), (200, 20))]),
    ],
    "annoy": [({"trees": trees}, [{"search_k": 20_000}, {"search_k": 60_000}]) for trees in (50, 100)],
    "usearch": [({"dtype": dtype, "links": 32}, [{"ef": 128}, {"ef": 512}]) for dtype in ("f16", "i8")],
}
"""For each library what it is built with, and for each of these what it is searched with."""

_TURNS = 5
_PER_TURN = 200
_TIE = 1e-4
"""What halved precision changes of a score."""


@dataclass(slots=True)
class Found:
    """What one library with one set of parameters did. `build_s` and `bytes` are shared by those of one build."""

    library: str
    parameters: str
    recalls: Any
    qps: float
    build_s: float
    bytes: float

    @property
    def recall(self) -> float:
        return float(self.recalls.mean())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kept = ("library", "parameters", "recall", "qps", "build_s", "bytes")
        return {key: getattr(self, key) for key in kept}


class Library:
    """A child of `benchmarks.indexpeers`."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        command = [str(python), "-m", "benchmarks.indexpeers", name, str(folder)]
        # A context manager by itself; here the child lives as long as this.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._name = name
        self._answer()
        self._floor_bytes = held_bytes(self._process.pid)

    def tell(self, do: str, **more: object) -> dict[str, Any]:
        """One act, and its answer; `RuntimeError` where the child ended."""
        if self._process.stdin is None:
            raise RuntimeError("the child has no input")
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def grown_bytes(self) -> int:
        """What it holds now beyond what it held with the library alone."""
        return held_bytes(self._process.pid) - self._floor_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        timer = threading.Timer(30, self._process.kill)
        timer.start()
        self._process.wait()
        timer.cancel()

    def _answer(self) -> dict[str, Any]:
        line = "" if self._process.stdout is None else self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told


class Course:
    """The vectors and questions in a folder, Embank built over them, and others run beside it."""

    def __init__(self, folder: Path, vectors: Float16, asked: Float32, queries: int) -> None:
        self._folder = folder
        self._vectors = vectors
        self._asked = asked[:queries]
        for name, values in {
            "vectors": vectors.astype(np.float32), "asked": self._asked, "planned": asked[queries:][:QUESTIONS]
        }.items():  # fmt: skip
            np.save(folder / f"{name}.npy", values)
        self._least = nearest(vectors, self._asked)[1][:, -1]

    def ours(self, kind: str) -> tuple[Library, Found, dict[str, Any]]:
        """Embank's index, to be asked in turns; what it found; and how it was chosen, in a process before."""
        with Library("embank", Path(sys.executable), self._folder) as planning:
            chosen = planning.tell("build", parameters={"kind": kind})
        library = Library("embank", Path(sys.executable), self._folder)
        told = library.tell("build", parameters={"method": chosen["method"]})
        recalls = self._recalls(library)
        found = Found("embank", told["name"], recalls, 0.0, told["seconds"], library.grown_bytes())
        return library, found, {"plan_s": chosen["seconds"], "plan": chosen.get("plan"), "method": told["name"]}

    def of(self, name: str, python: Path, ours: Library) -> tuple[list[Found], list[float]]:
        """A library with each of its parameters; and how often Embank answered a second meanwhile, for each."""
        found: list[Found] = []
        our_qps: list[float] = []
        for built_with, searched_with in GRID[name]:
            with Library(name, python, self._folder) as library:
                seconds = library.tell("build", parameters=built_with)["seconds"]
                for parameters in searched_with:
                    library.tell("set", parameters=parameters)
                    recalls = self._recalls(library)
                    qps, our = self._in_turns(library, ours)
                    shown = ", ".join(f"{key} {value}" for key, value in (built_with | parameters).items())
                    found.append(Found(name, shown, recalls, qps, seconds, library.grown_bytes()))
                    our_qps.append(our)
                    say(f"{json.dumps(found[-1].as_dict())}, Embank meanwhile {our:,.0f} a second")
        return found, our_qps

    def _recalls(self, library: Library) -> Any:
        """Of each question; what scores as well as the tenth counts, since texts repeat."""
        told = []
        for query, least, rows in zip(self._asked, self._least, library.tell("ask")["rows"], strict=True):
            there = np.unique([row for row in rows if row >= 0])
            scores = self._vectors[there.astype(np.int64)].astype(np.float32) @ query
            told.append(float((scores >= least - _TIE).sum()) / 10)
        return np.minimum(np.asarray(told), 1.0)

    def _in_turns(self, *libraries: Library) -> list[float]:
        """Searches a second of each, the median of five turns taken one after the other."""
        count = min(_PER_TURN, len(self._asked))
        turns: list[list[float]] = [[] for _ in libraries]
        for _ in range(_TURNS):
            for library, taken in zip(libraries, turns, strict=True):
                taken.append(count / library.tell("turn", count=count)["seconds"])
        return [statistics.median(taken) for taken in turns]


def measure(
    documents: int, queries: int, kind: str, peers: list[str]
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Figures and detail for so many documents."""
    given = corpus(documents)
    vectors, asked = embedded(given)
    asked = asked[: queries + QUESTIONS]
    with tempfile.TemporaryDirectory() as room:
        course = Course(Path(room), vectors, asked, queries)
        library, ours, told = course.ours(kind)
        others: list[Found] = []
        meanwhile: list[float] = []
        with library:
            for name in ("hnsw", *peers):
                python = python_of(name) if name in INDEXES else Path(sys.executable)
                if python is not None:
                    found, our_qps = course.of(name, python, library)
                    others += found
                    meanwhile += our_qps
    ours.qps = statistics.median(meanwhile)
    rivals = list(zip(others, meanwhile, strict=True))
    figures = _figures(ours, rivals, told, vectors.shape[1], len(vectors))
    _show(ours, rivals, len(vectors))
    detail = {
        "corpus": given.name,
        "vectors": len(vectors),
        "dimension": vectors.shape[1],
        "queries": queries,
        "method": told["method"],
        "plan": told["plan"],
        "libraries": [each.as_dict() for each in (ours, *others)],
    }
    return figures, detail


def _figures(
    ours: Found, rivals: list[tuple[Found, float]], told: dict[str, Any], dimension: int, rows: int
) -> dict[str, float | None]:
    graphs = [each for each in rivals if each[0].library == "hnsw"]
    fair = [each for each in graphs if each[0].recall >= ours.recall] or [max(graphs, key=lambda each: each[0].recall)]
    usual = graphs[0][0]
    peers = [each for each in rivals if each[0].library != "hnsw"]
    closer = {found.library for found, _ in peers if found.recall > ours.recall}
    leaner = {found.library for found, _ in peers if found.bytes < ours.bytes}
    faster = {found.library for found, our in peers if found.recall >= ours.recall and found.qps >= our}
    return {
        "recall_at_10": ours.recall,
        "recall_at_10_low": lower_bound(ours.recalls),
        "bytes_per_vector": ours.bytes / rows,
        "ram_ratio_vs_hnsw": ours.bytes / usual.bytes,
        "qps": ours.qps,
        "qps_ratio_vs_hnsw": min(our / found.qps for found, our in fair),
        "qps_ratio_vs_hnsw_128": graphs[0][1] / usual.qps,
        "build_s": ours.build_s,
        "build_ratio_vs_hnsw": ours.build_s / usual.build_s,
        "plan_s": told["plan_s"],
        "hnsw_recall_at_10": usual.recall,
        "peers": len({found.library for found, _ in peers}),
        "peers_ahead_recall": len(closer) if peers else None,
        "peers_ahead_ram": len(leaner) if peers else None,
        "peers_ahead_speed": len(faster) if peers else None,
        "pq_saved_pct": 100 * (1 - ours.bytes / rows / (4 * dimension)),
        "pq_loss_pct": 100 * (1 - ours.recall),
    }


def _show(ours: Found, rivals: list[tuple[Found, float]], rows: int) -> None:
    table = Table(title=f"{rows:,} vectors")
    for column in ("library", "parameters", "recall@10", "queries/s", "Embank's meanwhile", "build s", "bytes/vector"):
        table.add_column(column, justify="left" if column in {"library", "parameters"} else "right")
    for found, our in [(ours, ours.qps), *rivals]:
        numbers = f"{found.recall:.4f}", f"{found.qps:,.0f}", f"{our:,.0f}", f"{found.build_s:,.1f}"
        table.add_row(found.library, found.parameters, *numbers, f"{found.bytes / rows:,.0f}")
    Console(stderr=True, width=140).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a mark is missed")
    parser.add_argument("--documents", type=int, default=49_152)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--kind", default="auto", help="a kind of index instead of the planner's choice")
    parser.add_argument("--peers", nargs="*", default=list(INDEXES), help="which of them; none: against HNSW alone")
    given = parser.parse_args()
    figures, detail = measure(given.documents, given.queries, given.kind, given.peers)
    met = publish("index", figures, MARKS, detail, as_json=given.json)
    sys.exit(given.strict and not met)


if __name__ == "__main__":
    main()

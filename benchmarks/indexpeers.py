"""One library that keeps and searches vectors, in a process of its own: `python -m benchmarks.indexpeers NAME VECTORS`.

Told what to do by `benchmarks.index`, one JSON object a line: `build` with parameters that only a new index can take,
`set` with those of a search, `ask` for the rows found, `turn` for the seconds that so many questions take, one at a
time. VECTORS is a folder of .npy files, which are mapped: float32 `vectors` and `asked`, and `planned`, questions to
choose an index with. Libraries of others run in environments of their own, and import nothing of Embank.

What is kept is in memory, as each library does it when it is not told otherwise: Annoy is not saved and mapped.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

K = 10
_BLOCK = 4_096

Ask = Callable[[Any, int], Any]
"""Rows for one question, and how many."""


def _library(name: str) -> Any:
    """A module of somebody else's environment, which may not be there when types are checked."""
    return importlib.import_module(name)


def _blocks(vectors: Any) -> Iterator[tuple[int, Any]]:
    for first in range(0, len(vectors), _BLOCK):
        yield first, np.asarray(vectors[first : first + _BLOCK])


class Embank:
    """The product's index over its own segment files."""

    def __init__(self) -> None:
        _library("embank.memory.hygiene").apply()
        self._faiss = _library("faiss")
        self._backend = _library("embank.store.index.backend")
        self._building = _library("embank.store.index.building")
        self._planner = _library("embank.store.index.planner")
        self._methods = _library("embank.store.index.methods")
        self._settings = _library("embank.store.index.settings")
        self._rescored = _library("embank.store.index.rescored")
        self._vectors = _library("embank.store.vectors")
        self.told: dict[str, Any] = {}

    def build(
        self, vectors: Any, planned: Any, *, kind: str | None = None, method: dict[str, Any] | None = None
    ) -> float:
        """Train and fill by that method; or only tell which the planner chooses, or which `kind` names."""
        self._faiss.omp_set_num_threads(1)
        self._room = tempfile.TemporaryDirectory()
        codec = self._vectors.Codec("fp16", vectors.shape[1])
        segments = self._vectors.Segments(Path(self._room.name) / "v", codec, files=self._vectors.Files())
        for first, block in _blocks(vectors):
            segments.append(block, mark=first)
        rows = segments.rows(len(vectors))
        started = time.perf_counter()
        if method is None:
            self.told["method"] = self._chosen(rows, planned, str(kind)).as_dict()
            return time.perf_counter() - started
        made = self._methods.Method(**method)
        home = self._backend.Home(Path(self._room.name) / "index", "", self._settings.Settings())
        codes, _ = self._building.trained(made, rows, home=home, dead=None, governor=None)
        self._building.fill(codes, rows, governor=None, going=lambda: True)
        self.told["name"] = made.name
        self._index = self._rescored.RescoredIndex(codes, rows, depth=made.rescored, exhaustive=made.exhaustive)
        return time.perf_counter() - started

    def _chosen(self, rows: Any, planned: Any, kind: str) -> Any:
        settings = self._settings.Settings.model_validate({"kind": kind})
        if kind != "auto":
            return settings.method(kind, rows.codec.dimension, len(rows))
        planner = self._planner.Planner(settings, limit_bytes=1 << 40, going=lambda: True)
        plan = planner.plan(rows, None, self._planner.Questions(planned, "words"))
        self.told["plan"] = [
            {"name": each.method.name, "recall_low": each.recall_low, "query_ms": 1e3 * each.query_s}
            for each in plan.trials
        ]
        if plan.chosen is None:
            raise RuntimeError(plan.reason)
        return plan.chosen

    def ask(self, query: Any, k: int) -> Any:
        return self._index.search(query, k).slots


class Hnsw:
    """FAISS's HNSW over float32, built in one thread, as Embank's."""

    def __init__(self) -> None:
        self._faiss = _library("faiss")

    def build(self, vectors: Any, planned: Any, *, links: int) -> float:  # noqa: ARG002 -- as all
        self._faiss.omp_set_num_threads(1)
        self._index = self._faiss.IndexHNSWFlat(vectors.shape[1], links, self._faiss.METRIC_INNER_PRODUCT)
        started = time.perf_counter()
        for _, block in _blocks(vectors):
            self._index.add(block)
        return time.perf_counter() - started

    def set(self, *, ef: int) -> None:
        self._parameters = self._faiss.SearchParametersHNSW(efSearch=ef)

    def ask(self, query: Any, k: int) -> Any:
        return self._index.search(query[None], k, params=self._parameters)[1][0]


class Chroma:
    """Embedded, in memory, without files."""

    def __init__(self) -> None:
        chromadb = _library("chromadb")
        self._client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))

    def build(self, vectors: Any, planned: Any, *, links: int, ef: int) -> float:  # noqa: ARG002 -- as all
        # Given from the start: a collection that is in memory takes no other ef_search, though `modify` says it did.
        form = {"space": "ip", "max_neighbors": links, "ef_construction": 100, "ef_search": ef}
        self._rows = self._client.create_collection("vectors", configuration={"hnsw": form}, embedding_function=None)
        started = time.perf_counter()
        for first, block in _blocks(vectors):
            self._rows.add(ids=[str(row) for row in range(first, first + len(block))], embeddings=block)
        return time.perf_counter() - started

    def ask(self, query: Any, k: int) -> Any:
        return [int(each) for each in self._rows.query(query_embeddings=query[None], n_results=k, include=[])["ids"][0]]


class LanceDB:
    """A table on the local disk, as it always is."""

    def __init__(self) -> None:
        self._room = tempfile.TemporaryDirectory()
        self._database = _library("lancedb").connect(self._room.name)

    def build(self, vectors: Any, planned: Any, *, kind: str) -> float:  # noqa: ARG002 -- as all
        pa = _library("pyarrow")

        def batch(first: int, block: Any) -> Any:
            packed = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), vectors.shape[1])
            return pa.record_batch({"row": np.arange(first, first + len(block)), "vector": packed})

        started = time.perf_counter()
        batches = [batch(first, block) for first, block in _blocks(vectors)]
        self._rows = self._database.create_table("vectors", pa.Table.from_batches(batches))
        del batches
        more = {"num_sub_vectors": vectors.shape[1] // 8} if kind == "IVF_PQ" else {}
        self._rows.create_index("dot", vector_column_name="vector", index_type=kind, **more)
        return time.perf_counter() - started

    def set(self, *, probes: int, refine: int, ef: int | None = None) -> None:
        self._probes, self._refine, self._ef = probes, refine, ef

    def ask(self, query: Any, k: int) -> Any:
        asked = self._rows.search(query, query_type="vector").distance_type("dot").limit(k).select(["row", "_distance"])
        asked = asked.nprobes(self._probes).refine_factor(self._refine)
        asked = asked if self._ef is None else asked.ef(self._ef)
        return asked.to_arrow()["row"].to_pylist()


class Annoy:
    """A forest in memory."""

    def __init__(self) -> None:
        self._annoy = _library("annoy")

    def build(self, vectors: Any, planned: Any, *, trees: int) -> float:  # noqa: ARG002 -- as all
        self._index = self._annoy.AnnoyIndex(vectors.shape[1], "dot")
        self._index.set_seed(1)
        started = time.perf_counter()
        for first, block in _blocks(vectors):
            for row, vector in enumerate(block, first):
                self._index.add_item(row, vector)
        self._index.build(trees)
        return time.perf_counter() - started

    def set(self, *, search_k: int) -> None:
        self._search_k = search_k

    def ask(self, query: Any, k: int) -> Any:
        return self._index.get_nns_by_vector(query, k, self._search_k)


class Usearch:
    """A graph over vectors of one precision."""

    def __init__(self) -> None:
        self._usearch = _library("usearch.index")

    def build(self, vectors: Any, planned: Any, *, dtype: str, links: int) -> float:  # noqa: ARG002 -- as all
        self._index = self._usearch.Index(ndim=vectors.shape[1], metric="ip", dtype=dtype, connectivity=links)
        started = time.perf_counter()
        for first, block in _blocks(vectors):
            self._index.add(np.arange(first, first + len(block)), block)
        return time.perf_counter() - started

    def set(self, *, ef: int) -> None:
        self._index.expansion_search = ef

    def ask(self, query: Any, k: int) -> Any:
        return self._index.search(query, k).keys


LIBRARIES = {
    "embank": Embank, "hnsw": Hnsw, "chroma": Chroma, "lancedb": LanceDB, "annoy": Annoy, "usearch": Usearch,
}  # fmt: skip


def main() -> None:
    """Say that the library is there; then one act a line of input, one line of answer each."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    vectors, asked, planned = (
        np.load(folder / f"{each}.npy", mmap_mode="r") for each in ("vectors", "asked", "planned")
    )
    library: Any = LIBRARIES[name]()
    asked = np.array(asked)

    def say(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    say(started=name)
    for line in sys.stdin:
        told = json.loads(line)
        do, parameters = told["do"], told.get("parameters", {})
        if do == "build":
            seconds = library.build(vectors, np.array(planned), **parameters)
            say(seconds=seconds, **getattr(library, "told", {}))
        elif do == "set":
            if parameters:
                library.set(**parameters)
            say(set=parameters)
        elif do == "ask":
            say(rows=[[int(row) for row in library.ask(query, K)] for query in asked])
        else:
            started = time.perf_counter()
            for query in asked[: told["count"]]:
                library.ask(query, K)
            say(seconds=time.perf_counter() - started)


if __name__ == "__main__":
    main()

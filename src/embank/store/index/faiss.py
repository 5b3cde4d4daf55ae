"""Codes over FAISS: every kind of `methods`, in forms that take a selector. The one file that imports FAISS.

FAISS frees the interpreter's lock while it searches, trains and adds; searches of several threads run side by side.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from embank.errors import InvalidInput, MissingExtra
from embank.store.index.backend import Backend, Home
from embank.store.index.methods import Method
from embank.store.index.protocol import Float32, Mask, Read, Slots, Write
from embank.store.index.settings import Settings
from embank.store.metric import Metric

_PIECE_BYTES = 1 << 20
_SHARED_SCAN = 14
"""FAISS's number for the search of one question whose lists are shared out among threads; by itself it would not."""


def available() -> bool:
    """Whether FAISS is installed; it is not imported."""
    return importlib.util.find_spec("faiss") is not None


def require() -> Any:
    """The module; `MissingExtra` where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss-cpu", "faiss") from error
    return faiss


class FaissCodes:
    """See `protocol.Codes`. Slots are FAISS's own sequential numbers."""

    takes_filters = True

    def __init__(self, index: Any, method: Method) -> None:
        self._faiss = require()
        self._index = index
        self.method = method
        if method.kind in {"pq-fastscan", "ivf"} and method.lists > 1:
            index.implem = _SHARED_SCAN

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def rows(self) -> int:
        return int(self._index.ntotal)

    def used_bytes(self) -> int:
        return self.method.held_bytes(self.rows)

    def add(self, vectors: Float32) -> None:
        if len(vectors):  # some kinds refuse to add nothing
            self._index.add(np.ascontiguousarray(vectors, np.float32))

    def candidates(self, query: Float32, count: int, *, allowed: Mask | None = None) -> Slots:
        # The selector refers to `packed` and the parameters to the selector: both must outlive the search.
        packed = None if allowed is None else np.packbits(allowed, bitorder="little")
        selector = None if packed is None else self._faiss.IDSelectorBitmap(packed)
        parameters = self._parameters(selector, count)
        row = np.ascontiguousarray(query, np.float32)[None]
        _, found = self._index.search(row, min(count, max(self.rows, 1)), params=parameters)
        slots: Slots = found[0][found[0] >= 0]
        return slots

    def error(self, vectors: Float32) -> float | None:
        """By how much codes of `vectors` are off: squares of that over squares of these.

        `None` for zeros alone, and for bits, which keep no more than a direction.
        """
        whole = float(np.einsum("ij,ij->", vectors, vectors, dtype=np.float64))
        if self.method.kind == "rabitq" or not whole:
            return None
        rows = np.ascontiguousarray(vectors, np.float32)
        if self.method.kind in {"flat", "sq8", "hnsw"}:
            # A graph keeps its codes in an index of its own.
            index = self._faiss.downcast_index(getattr(self._index, "storage", self._index))
            off = index.sa_decode(index.sa_encode(rows)) - rows
        else:
            # Not by `sa_decode`: with fast-scan codes that were read from a file it ends the process.
            if self._index.by_residual:
                rows = rows - self._index.quantizer.reconstruct_batch(self._index.quantizer.assign(rows, 1)[:, 0])
            off = self._index.pq.decode(self._index.pq.compute_codes(rows)) - rows
        return float(np.einsum("ij,ij->", off, off, dtype=np.float64)) / whole

    def save(self, write: Write) -> None:
        writer = self._faiss.PyCallbackIOWriter(write, _PIECE_BYTES)
        self._faiss.write_index(self._index, writer)

    def _parameters(self, selector: Any, count: int) -> Any:
        chosen: dict[str, Any] = {} if selector is None else {"sel": selector}
        if self.method.kind in {"flat", "sq8"}:
            return self._faiss.SearchParameters(**chosen) if chosen else None
        if self.method.kind == "hnsw":
            return self._faiss.SearchParametersHNSW(efSearch=max(self.method.ef_search, count), **chosen)
        return self._faiss.SearchParametersIVF(nprobe=max(self.method.probes, 1), **chosen)


class FaissBackend(Backend[Method]):
    """See `Backend`. Codes are in the saved file, whole."""

    def require(self, settings: Settings) -> object:  # noqa: ARG002 -- whatever they say
        return require()

    def way(self, settings: Settings, kind: str, dimension: int, rows: int, metric: Metric) -> Method:
        return settings.method(kind, dimension, rows, metric=metric)

    def read_way(self, values: dict[str, Any]) -> Method:
        return Method(**values)

    def make(self, way: Method, sample: Float32, home: Home) -> FaissCodes:  # noqa: ARG002 -- kept in the saved file
        return train(way, sample)

    def load(self, way: Method, read: Read, home: Home) -> FaissCodes:  # noqa: ARG002 -- likewise
        return load(way, read)

    def bounded(self, threads: int) -> AbstractContextManager[None]:
        return bounded_threads(threads)


BACKEND = FaissBackend()


def train(method: Method, sample: Float32) -> FaissCodes:
    """Empty codes, trained on float32 rows of shape (n, dimension).

    Raises `InvalidInput` for fewer rows than the method needs, and for parameters that FAISS refuses.
    """
    faiss = require()
    method.check_rows(len(sample))
    try:
        metric = faiss.METRIC_L2 if method.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(method.dimension, method.factory, metric)
        _prepare(index, method)
        if not index.is_trained:
            index.train(np.ascontiguousarray(sample, np.float32))
    except RuntimeError as error:
        raise InvalidInput(f"FAISS refuses {method.factory}: {_reason(error)}", factory=method.factory) from error
    return FaissCodes(index, method)


def load(method: Method, read: Read) -> FaissCodes:
    """Codes that `save` wrote. `read(n)` gives the next bytes, at most `n`. Raises `ValueError` for what is none."""
    faiss = require()
    try:
        index = faiss.read_index(faiss.PyCallbackIOReader(read, _PIECE_BYTES))
    except RuntimeError as error:
        raise ValueError(f"FAISS can't read its index: {_reason(error)}") from error
    if index.d != method.dimension:
        raise ValueError(f"the index is over {index.d} dimensions, not {method.dimension}")
    return FaissCodes(index, method)


@contextmanager
def bounded_threads(threads: int) -> Iterator[None]:
    """Have FAISS work with so many threads where the block calls it; other threads' calls are not touched."""
    faiss = require()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _prepare(index: Any, method: Method) -> None:
    """What the factory's names can't say."""
    if method.kind == "hnsw":
        index.hnsw.efConstruction = method.ef_build
        return
    quantiser = getattr(index, "pq", None)
    if quantiser is not None:
        # All of the sample is to be used, and FAISS is not to say on standard error that it would have liked more.
        quantiser.cp.max_points_per_centroid = 1 << 20
        quantiser.cp.min_points_per_centroid = 1
    if method.lists > 1:
        index.cp.max_points_per_centroid = 256
        index.cp.min_points_per_centroid = 1


def _reason(error: RuntimeError) -> str:
    """FAISS's message without the place in its own source."""
    return str(error).rsplit("Error: ", 1)[-1].strip()

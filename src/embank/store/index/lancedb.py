"""Codes in LanceDB: a graph over bytes, in a table beside the saved file. The one file that imports LanceDB.

A table has versions, and a handle that is held to one sees nothing else: so an index is extended in its own table
while it is searched, and what a kill leaves behind is not looked at. Each commit makes a fragment and a version, so
vectors are committed by the megabyte, however they come in. The index is made, or brought up to date, on saving.

Memory: LanceDB's caches hold gigabytes unless told otherwise; here each table in use has a session of its own, bounded
by what the index may hold. Making the index takes some three times the vectors as float32 for a while
(`LanceWay.saving_bytes`). Beside that the library itself keeps some 150 MB once it has made an index, which nothing
gives back and no session counts: the governor sees it as memory that nobody manages.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embank.errors import IndexUnavailable, MissingExtra
from embank.store.index.backend import Backend, Home, Untrained
from embank.store.index.protocol import Float32, Mask, Read, Slots, Write
from embank.store.index.settings import Settings
from embank.store.metric import Metric

_TABLE = "vectors"
_COMMIT_BYTES = 16 << 20
_METADATA_BYTES = 8 << 20
_LEAST_INDEXED_ROWS = 1_024
"""Below, LanceDB scans its table, which takes a millisecond."""

_PARTITION_ROWS = 262_144
_MOST_TOKEN_BYTES = 4_096
_KEPT_VERSIONS = timedelta(hours=1)
"""Who has an older version open finds its files gone, scans, and opens what was saved last."""


@dataclass(frozen=True, slots=True)
class LanceWay(Untrained):
    """See `protocol.Way`. `links`, `ef_build`, `ef_search` are of the graph, as for `hnsw`."""

    dimension: int
    links: int
    ef_build: int
    ef_search: int
    rescored: int
    metric: Metric
    kind: Literal["lancedb"] = "lancedb"

    @property
    def name(self) -> str:
        """For people."""
        return f"LanceDB HNSW{self.links},SQ, ef {self.ef_search} + {self.rescored}"

    @property
    def distance(self) -> str:
        """What LanceDB calls the metric. Stored vectors that are compared by cosine are of length 1."""
        return "l2" if self.metric == "l2" else "dot"

    @property
    def grows(self) -> bool:
        """What is added comes beside what is there."""
        return True

    def held_bytes(self, rows: int) -> int:
        """What its caches come to once all was searched; measured with 20,000 vectors of 384: 661 bytes each."""
        return int(rows * (self.dimension + 8 * self.links + 120)) + _METADATA_BYTES

    def saving_bytes(self, rows: int) -> int:
        """The vectors as float32, and copies of them while the graph is made."""
        return 3 * 4 * self.dimension * rows if rows >= _LEAST_INDEXED_ROWS else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which `LanceWay(**…)` makes it again."""
        return asdict(self)


class LanceCodes:
    """See `protocol.Codes`: a table at one version. Filters are the caller's: a list of slots is no filter here."""

    takes_filters = False

    def __init__(self, folder: Path, method: LanceWay, *, version: int | None, cache_bytes: int) -> None:
        """With a `version`, what is in `folder`; without, a new table. Raises `ValueError` for what is not there."""
        lancedb = require()
        self.method = method
        self.folder = folder
        self._session = lancedb.Session(index_cache_size_bytes=cache_bytes, metadata_cache_size_bytes=_METADATA_BYTES)
        self._waiting: list[Float32] = []
        self._unsaved = version is None
        database = lancedb.connect(str(folder), session=self._session)
        if version is None:
            with _translated(method.name):
                self._table = database.create_table(_TABLE, schema=_batch(np.empty((0, method.dimension)), 0).schema)
            self._rows = 0
        else:
            try:
                self._table = database.open_table(_TABLE)
                self._table.checkout(version)
                self._rows = int(self._table.count_rows())
            except (RuntimeError, OSError) as error:
                raise ValueError(f"LanceDB can't open version {version} of {folder}: {_line(error)}") from error

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def rows(self) -> int:
        return self._rows + sum(map(len, self._waiting))

    def used_bytes(self) -> int:
        return int(self._session.size_bytes) + sum(each.nbytes for each in self._waiting)

    def add(self, vectors: Float32) -> None:
        if len(vectors):
            self._waiting.append(np.array(vectors, np.float32))
            if sum(each.nbytes for each in self._waiting) >= _COMMIT_BYTES:
                self._commit()

    def candidates(self, query: Float32, count: int, *, allowed: Mask | None = None) -> Slots:  # noqa: ARG002 -- see above
        self._commit()
        with _translated(self.name):
            found = (
                self._table.search(np.asarray(query, np.float32), vector_column_name="vector")
                .distance_type(self.method.distance)
                .nprobes(max(self._rows // _PARTITION_ROWS, 1))
                .ef(max(self.method.ef_search, count))
                .limit(count)
                .select(["slot", "_distance"])
                .to_arrow()
            )
            slots: Slots = found["slot"].to_numpy()
        return slots

    def error(self, vectors: Float32) -> float | None:  # noqa: ARG002 -- LanceDB does not say
        return None

    def save(self, write: Write) -> None:
        self._commit()
        if self._unsaved:
            with _translated(self.name):
                self._index()
                self._table.checkout(self._table.version)
            self._unsaved = False
        write(json.dumps({"folder": self.folder.name, "version": self._table.version}).encode())

    def _commit(self) -> None:
        if not self._waiting:
            return
        with _translated(self.name):
            if not self._unsaved:  # behind this version, not behind what an interrupted extension left
                self._table.restore()
                self._unsaved = True
            vectors = np.concatenate(self._waiting)
            self._table.add(_batch(vectors, self._rows))
            self._waiting, self._rows = [], self._rows + len(vectors)

    def _index(self) -> None:
        if self._table.list_indices():
            self._table.optimize(cleanup_older_than=_KEPT_VERSIONS)
        elif self._rows >= _LEAST_INDEXED_ROWS:
            from lancedb.index import HnswSq

            graph = HnswSq(
                distance_type=self.method.distance,
                num_partitions=max(self._rows // _PARTITION_ROWS, 1),
                m=self.method.links,
                ef_construction=self.method.ef_build,
            )
            self._table.create_index("vector", config=graph)


class LanceBackend(Backend[LanceWay]):
    """See `Backend`."""

    def require(self, settings: Settings) -> object:  # noqa: ARG002 -- whatever they say
        return require()

    def way(self, settings: Settings, kind: str, dimension: int, rows: int, metric: Metric) -> LanceWay:  # noqa: ARG002 -- one kind, whatever its size
        return LanceWay(
            dimension,
            links=settings.links or 20,
            ef_build=150,
            ef_search=settings.ef_search or 300,
            rescored=settings.rescored or 200,
            metric=metric,
        )

    def read_way(self, values: dict[str, Any]) -> LanceWay:
        return LanceWay(**values)

    def make(self, way: LanceWay, sample: Float32, home: Home) -> LanceCodes:  # noqa: ARG002 -- it samples by itself
        return LanceCodes(_folder(home) / uuid.uuid4().hex[:12], way, version=None, cache_bytes=home.limit_bytes)

    def load(self, way: LanceWay, read: Read, home: Home) -> LanceCodes:
        try:
            told = json.loads(read(_MOST_TOKEN_BYTES))
            folder, version = _folder(home) / Path(told["folder"]).name, int(told["version"])
        except (TypeError, KeyError) as error:
            raise ValueError("it does not say which version of what") from error
        return LanceCodes(folder, way, version=version, cache_bytes=home.limit_bytes)

    def tidy(self, codes: Any, home: Home) -> None:
        for folder in _folder(home).iterdir():
            if folder != codes.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, way: LanceWay, home: Home) -> None:  # noqa: ARG002 -- all is in one folder
        shutil.rmtree(_folder(home), ignore_errors=True)


BACKEND = LanceBackend()


def available() -> bool:
    """Whether LanceDB is installed; it is not imported."""
    return importlib.util.find_spec("lancedb") is not None


def require() -> Any:
    """The module; `MissingExtra` where it is not installed."""
    try:
        import lancedb
    except ImportError as error:
        raise MissingExtra("lancedb", "lancedb") from error
    return lancedb


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """LanceDB's errors, which are of many classes, as `IndexUnavailable`."""
    try:
        yield
    except (RuntimeError, OSError, KeyError) as error:
        raise IndexUnavailable(f"{name} fails: {_line(error)}", index=name) from error


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


def _batch(vectors: Float32 | Any, first_slot: int) -> Any:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    slots = pa.array(np.arange(first_slot, first_slot + len(vectors), dtype=np.int64))
    return pa.RecordBatch.from_arrays([slots, lists], names=["slot", "vector"])


def _folder(home: Home) -> Path:
    return home.folder / "lancedb"

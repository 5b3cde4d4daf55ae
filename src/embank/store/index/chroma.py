"""Codes in Chroma: its graph, in files beside the saved one, or on a server. The one file that imports chromadb.

With `index.chroma_url` a server keeps them: it is spoken to over HTTP, and chromadb need not be installed here.
Without, chromadb keeps them in a directory of its own, which is one process's: one that only reads the bank scans.

A collection on a server is known by its name, which says whose it is (a copy of a bank has another), by the id that the
server gave it, and by its count. What differs in any of these is not believed and made anew. An extension adds to the
collection in use: what was added past the rows that codes cover is left out of their answers.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import sqlite3
import uuid
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from embank.errors import IndexUnavailable, MissingExtra
from embank.store.index.backend import Backend, Home, Untrained
from embank.store.index.protocol import Float32, Mask, Read, Slots, Write
from embank.store.index.settings import Settings
from embank.store.metric import Metric

_BATCH_ROWS = 1_000
_MOST_TOKEN_BYTES = 4_096
_PAGE = 100
_LOCAL_NAME = "vectors"  # names have three characters or more
_DATABASE = "/api/v2/tenants/default_tenant/databases/default_database/collections"


@dataclass(frozen=True, slots=True)
class ChromaWay(Untrained):
    """See `protocol.Way`. `links`, `ef_build`, `ef_search` are of the graph, as for `hnsw`; `url`: of a server."""

    dimension: int
    links: int
    ef_build: int
    ef_search: int
    rescored: int
    metric: Metric
    url: str | None
    kind: Literal["chroma"] = "chroma"

    @property
    def name(self) -> str:
        """For people."""
        place = "" if self.url is None else f" at {self.url}"
        return f"Chroma HNSW{self.links}{place}, ef {self.ef_search} + {self.rescored}"

    @property
    def grows(self) -> bool:
        """What is added comes beside what is there."""
        return True

    def held_bytes(self, rows: int) -> int:
        """As measured from outside, for Chroma can't be asked and heeds no limit: 2,050 bytes a row of 384."""
        return 0 if self.url is not None else int(rows * (4 * self.dimension + 8 * self.links + 258))

    def saving_bytes(self, rows: int) -> int:  # noqa: ARG002 -- however many they are
        """All is kept when it is added."""
        return 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which `ChromaWay(**…)` makes it again."""
        return asdict(self)

    def configuration(self) -> dict[str, Any]:
        """What Chroma is told of the graph. Stored vectors that are compared by cosine are of length 1."""
        graph = {"max_neighbors": self.links, "ef_construction": self.ef_build, "ef_search": self.ef_search}
        return {"hnsw": {"space": "l2" if self.metric == "l2" else "ip", **graph}}


class _Collection(Protocol):
    """A collection, wherever it is. Raises `LookupError` once it is gone, and `IndexUnavailable`."""

    id: str

    def count(self) -> int: ...

    def upsert(self, ids: list[str], vectors: Float32) -> None: ...

    def query(self, vector: Float32, count: int) -> list[str]: ...

    def close(self) -> None: ...


class ChromaCodes:
    """See `protocol.Codes`. Filters are the caller's: a list of ids is no filter here."""

    takes_filters = False

    def __init__(self, method: ChromaWay, collection: _Collection, *, place: str) -> None:
        """`place` is the name of the collection on the server, or of the directory."""
        self.method = method
        self.place = place
        self._collection = collection
        # Whoever still searches holds these codes: what they hold open is let go with the last of them.
        weakref.finalize(self, collection.close)
        self.rows = collection.count()

    @property
    def name(self) -> str:
        return self.method.name

    def used_bytes(self) -> int:
        return self.method.held_bytes(self.rows)

    def add(self, vectors: Float32) -> None:
        with _there(self.name):
            for first in range(0, len(vectors), _BATCH_ROWS):
                part = np.ascontiguousarray(vectors[first : first + _BATCH_ROWS], np.float32)
                self._collection.upsert([str(self.rows + number) for number in range(len(part))], part)
                self.rows += len(part)

    def candidates(self, query: Float32, count: int, *, allowed: Mask | None = None) -> Slots:  # noqa: ARG002 -- see above
        with _there(self.name):
            ids = self._collection.query(np.asarray(query, np.float32), min(count, max(self.rows, 1)))
        try:
            slots = np.array(ids, np.int64)
        except ValueError as error:
            raise IndexUnavailable(f"{self.name} holds what is not Embank's: {error}", index=self.name) from error
        covered: Slots = slots[(slots >= 0) & (slots < self.rows)]
        return covered

    def error(self, vectors: Float32) -> float | None:  # noqa: ARG002 -- Chroma keeps them whole
        return None

    def save(self, write: Write) -> None:
        with _there(self.name):
            count = self._collection.count()
        if count != self.rows:
            raise IndexUnavailable(f"{self.name} holds {count:,} vectors, not {self.rows:,}", index=self.name)
        write(json.dumps({"place": self.place, "id": self._collection.id}).encode())


class ChromaBackend(Backend[ChromaWay]):
    """See `Backend`."""

    def require(self, settings: Settings) -> object:
        return require() if settings.chroma_url is None else None

    def way(self, settings: Settings, kind: str, dimension: int, rows: int, metric: Metric) -> ChromaWay:  # noqa: ARG002 -- one kind, whatever its size
        return ChromaWay(
            dimension,
            links=settings.links or 32,
            ef_build=100,
            ef_search=settings.ef_search or 300,
            rescored=settings.rescored or 200,
            metric=metric,
            url=None if settings.chroma_url is None else settings.chroma_url.rstrip("/"),
        )

    def read_way(self, values: dict[str, Any]) -> ChromaWay:
        return ChromaWay(**values)

    def make(self, way: ChromaWay, sample: Float32, home: Home) -> ChromaCodes:  # noqa: ARG002 -- nothing is trained
        unique = uuid.uuid4().hex[:12]
        if way.url is None:
            return ChromaCodes(way, _Embedded(_folder(home) / unique, way, create=True), place=unique)
        server = _Server(way.url, home.settings.chroma_timeout_s)
        name = _prefix(home) + unique
        return ChromaCodes(way, server.create(name, way), place=name)

    def load(self, way: ChromaWay, read: Read, home: Home) -> ChromaCodes:
        try:
            told = json.loads(read(_MOST_TOKEN_BYTES))
            place, identity = str(told["place"]), str(told["id"])
        except (TypeError, KeyError) as error:
            raise ValueError("it does not say which collection") from error
        try:
            collection = self._opened(way, place, home)
            codes = ChromaCodes(way, collection, place=place)
        except LookupError as error:
            raise ValueError(f"Chroma has no collection {place!r} any more") from error
        if collection.id != identity:
            raise ValueError(f"Chroma's collection {place!r} is another of the same name")
        return codes

    def tidy(self, codes: Any, home: Home) -> None:
        if codes.method.url is None:
            self._remove_folders(home, keep=codes.place)
        else:
            _Server(codes.method.url, home.settings.chroma_timeout_s).remove(_prefix(home), keep=codes.place)

    def remove(self, way: ChromaWay, home: Home) -> None:
        self._remove_folders(home)
        if way.url is not None:
            _Server(way.url, home.settings.chroma_timeout_s).remove(_prefix(home))

    def _opened(self, way: ChromaWay, place: str, home: Home) -> _Collection:
        if way.url is not None:
            if not place.startswith(_prefix(home)):
                raise ValueError(f"Chroma's collection {place!r} is of another bank, or of another copy of this one")
            return _Server(way.url, home.settings.chroma_timeout_s).open(place)
        if home.read_only:
            raise IndexUnavailable(
                "Chroma's files are one process's, the one that writes the bank: a process that only reads it scans; "
                "index.chroma_url names a server for both"
            )
        return _Embedded(_folder(home) / Path(place).name, way, create=False)

    def _remove_folders(self, home: Home, *, keep: str | None = None) -> None:
        for folder in _folder(home).glob("*"):
            if folder.name != keep:
                shutil.rmtree(folder, ignore_errors=True)


BACKEND = ChromaBackend()


def available() -> bool:
    """Whether chromadb is installed; it is not imported."""
    return importlib.util.find_spec("chromadb") is not None


def require() -> Any:
    """The module; `MissingExtra` where it is not installed."""
    try:
        import chromadb
    except ImportError as error:
        raise MissingExtra("chromadb", "chroma") from error
    return chromadb


class _Embedded:
    """A collection in a directory, kept by chromadb in this process."""

    def __init__(self, folder: Path, way: ChromaWay, *, create: bool) -> None:
        chromadb = require()
        if not create and not folder.is_dir():
            raise LookupError(folder)
        self._errors = (chromadb.errors.ChromaError, sqlite3.Error, RuntimeError, OSError)
        self._gone = chromadb.errors.NotFoundError
        with self._translated():
            # No usage statistics are sent, and no .env of the working directory is read.
            settings = chromadb.config.Settings(_env_file=None, anonymized_telemetry=False)
            self._client = chromadb.PersistentClient(str(folder), settings=settings)
            given: dict[str, Any] = {"name": _LOCAL_NAME, "embedding_function": None}
            if create:
                self._collection = self._client.create_collection(configuration=way.configuration(), **given)
            else:
                self._collection = self._client.get_collection(**given)
        self.id = str(self._collection.id)

    def count(self) -> int:
        with self._translated():
            return int(self._collection.count())

    def upsert(self, ids: list[str], vectors: Float32) -> None:
        with self._translated():
            self._collection.upsert(ids=ids, embeddings=vectors)

    def query(self, vector: Float32, count: int) -> list[str]:
        with self._translated():
            found = self._collection.query(query_embeddings=vector[None], n_results=count, include=[])
        ids: list[str] = found["ids"][0]
        return ids

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._gone as error:
            raise LookupError(str(error)) from error
        except self._errors as error:
            raise IndexUnavailable(f"Chroma fails: {str(error).partition(chr(10))[0][:300]}") from error


class _Server:
    """A server, over the second version of its HTTP interface."""

    def __init__(self, url: str, timeout_s: float) -> None:
        import httpx2

        self._url = url
        self._failures = httpx2.HTTPError
        self._client = httpx2.Client(base_url=url, timeout=timeout_s)

    def create(self, name: str, way: ChromaWay) -> _Remote:
        """A new collection."""
        with self._closed_by_errors():
            return _Remote(self, self.ask("POST", "", {"name": name, "configuration": way.configuration()})["id"])

    def open(self, name: str) -> _Remote:
        """The collection of that name. Raises `LookupError`."""
        with self._closed_by_errors():
            return _Remote(self, self.ask("GET", f"/{name}")["id"])

    def remove(self, prefix: str, *, keep: str | None = None) -> None:
        """Remove every collection whose name begins so, but one."""
        names: list[str] = []
        with closing(self):
            while page := self.ask("GET", f"?limit={_PAGE}&offset={len(names)}"):
                names += [each["name"] for each in page]
            for name in names:
                if name.startswith(prefix) and name != keep:
                    self.ask("DELETE", f"/{name}")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server answers. Raises `LookupError` for what it has not, and `IndexUnavailable`."""
        try:
            answer = self._client.request(method, _DATABASE + path, json=body)
        except self._failures as error:
            told = str(error) or type(error).__name__
            raise IndexUnavailable(f"the Chroma server {self._url} does not answer: {told}", url=self._url) from error
        if answer.status_code == 404:
            raise LookupError(path)
        if answer.status_code >= 400:
            told = answer.text[:300]
            raise IndexUnavailable(f"the Chroma server {self._url} refuses: {told}", url=self._url)
        try:
            return answer.json()
        except ValueError as error:
            raise IndexUnavailable(f"{self._url} answers what no Chroma server does", url=self._url) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _closed_by_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Remote:
    """A collection on a server."""

    def __init__(self, server: _Server, identity: str) -> None:
        self.id = identity
        self._server = server

    def count(self) -> int:
        return int(self._server.ask("GET", f"/{self.id}/count"))

    def upsert(self, ids: list[str], vectors: Float32) -> None:
        packed = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
        self._server.ask("POST", f"/{self.id}/upsert", {"ids": ids, "embeddings": packed})

    def query(self, vector: Float32, count: int) -> list[str]:
        body = {"query_embeddings": [vector.tolist()], "n_results": count, "include": []}
        ids: list[str] = self._server.ask("POST", f"/{self.id}/query", body)["ids"][0]
        return ids

    def close(self) -> None:
        self._server.close()


@contextmanager
def _there(name: str) -> Iterator[None]:
    """A collection that was removed while in use is an index that can't answer."""
    try:
        yield
    except LookupError as error:
        raise IndexUnavailable(f"{name}: the collection is gone", index=name) from error


def _folder(home: Home) -> Path:
    return home.folder / "chroma"


def _prefix(home: Home) -> str:
    return f"embank-{home.name}-"

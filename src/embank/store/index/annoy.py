"""Codes over Annoy: a forest of random hyperplanes in one file that is mapped. The one file that imports annoy.

Annoy's file holds a float32 copy of the vectors; searching takes its pages, which the kernel can take back, and no
memory of its own. It can't be extended: more vectors mean a new forest. It takes no filters, and what is no file of its
own making ends the process, so that a file is never handed to it before its checksum was compared.

A forest over a large collection is built in a file that is mapped, too, where a full disk would end the process: room
is looked for first. A small one is built in memory and written as a whole.
"""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import uuid
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embank.errors import InvalidInput, MissingExtra, StorageFull
from embank.store.index.backend import Backend, Home, Untrained
from embank.store.index.protocol import Codes, Float32, Mask, Read, Slots, Write
from embank.store.index.settings import Settings
from embank.store.metric import Metric
from embank.system.files import Files

SUFFIX = ".annoy"
_BLOCK_BYTES = 1 << 20
_MOST_RECORD_BYTES = 1 << 16
_SEED = 0
_RESCORED = 200
_ROW_BUILD_BYTES = 24
"""Anonymous bytes a vector while a forest is built on the disk: lists of numbers, one level of a tree after another."""

_DISTANCES = {"cosine": "angular", "dot": "dot", "l2": "euclidean"}

_ROOM_FACTOR = 1.5
"""Annoy grows its file by a third at a time."""


def available() -> bool:
    """Whether Annoy is installed; it is not imported."""
    return importlib.util.find_spec("annoy") is not None


def require() -> Any:
    """The module; `MissingExtra` where it is not installed."""
    try:
        import annoy
    except ImportError as error:
        raise MissingExtra("annoy", "annoy") from error
    return annoy


@dataclass(frozen=True, slots=True)
class Forest(Untrained):
    """How a forest is made and searched.

    `search_k`: nodes that a search looks at where `rescored` candidates are wanted, more where more are;
    0 leaves it to Annoy, which takes trees × candidates.
    """

    dimension: int
    trees: int
    search_k: int = 0
    rescored: int = _RESCORED
    metric: Metric = "cosine"

    @property
    def kind(self) -> str:
        return "annoy"

    @property
    def grows(self) -> bool:
        return False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"kind": self.kind, **asdict(self)}

    @property
    def name(self) -> str:
        """For people: its form, and how many candidates are rescored."""
        looked = f", search_k {self.search_k}" if self.search_k else ""
        return f"Annoy, {self.trees} trees{looked} + {self.rescored}"

    def held_bytes(self, rows: int) -> int:
        """Anonymous bytes over `rows` vectors while it is built on the disk; once it is, there are next to none."""
        return rows * _ROW_BUILD_BYTES

    def saving_bytes(self, rows: int) -> int:
        """What building it takes, which is left to the saving."""
        return rows * _ROW_BUILD_BYTES

    def file_bytes(self, rows: int) -> int:
        """About what the file takes: a node for each vector, and those of the trees."""
        node = 12 + 4 * self.dimension
        return int(rows * node * (1 + 4 * self.trees / (self.dimension + 2)))


@dataclass(frozen=True, slots=True)
class ForestFile:
    """Which file in a folder holds a forest, and what must be found in it."""

    name: str
    rows: int
    bytes: int
    checksum: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def check(self, folder: Path) -> Path:
        """Its path; every byte was read. Raises `ValueError` where it is damaged or missing, and `OSError`."""
        if Path(self.name).name != self.name or not self.name.endswith(SUFFIX):
            raise ValueError(f"{self.name!r} is no name of a forest")
        path = folder / self.name
        try:
            size, checksum = _summed(path)
        except FileNotFoundError as error:
            raise ValueError(f"{self.name} is missing") from error
        if (size, checksum) != (self.bytes, self.checksum):
            raise ValueError(f"the checksum over {self.name} differs")
        return path


class AnnoyCodes:
    """See `protocol.Codes`. Built with the first search or when it is kept in `folder`, which also makes it final."""

    takes_filters = False

    def __init__(
        self,
        forest: Forest,
        index: Any,
        folder: Path,
        *,
        path: Path | None = None,
        file: ForestFile | None = None,
        threads: int = 1,
    ) -> None:
        """`path`: where it is being built, `None` in memory. `file`: what it was loaded from."""
        self.method = forest
        self.folder = folder
        self.file = file
        self._index = index
        self._rows = 0 if file is None else file.rows
        self._path = path
        self._built = file is not None
        self._threads = threads
        self._building = threading.Lock()

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def rows(self) -> int:
        return self._rows

    def used_bytes(self) -> int:
        if self.file is not None:  # its roots
            return 4 * self.method.trees
        return self.method.held_bytes(self._rows) + (self.method.file_bytes(self._rows) if self._path is None else 0)

    def add(self, vectors: Float32) -> None:
        """Raises `InvalidInput` for a forest that is on the disk already, and `StorageFull`."""
        if self.file is not None:
            raise InvalidInput("a forest of Annoy can't be extended: build another")
        if self._path is not None:
            _check_room(self._path, self.method.file_bytes(self._rows + len(vectors)))
        if self._built:
            self._index.unbuild()
            self._built = False
        for vector in vectors:
            self._index.add_item(self._rows, vector.tolist())
            self._rows += 1

    def candidates(self, query: Float32, count: int, *, allowed: Mask | None = None) -> Slots:  # noqa: ARG002 -- never given
        self._build()
        if not self._rows:
            return np.empty(0, np.int64)
        wanted = max(self.method.search_k * count // self.method.rescored, self.method.search_k)
        found = self._index.get_nns_by_vector(query.tolist(), min(count, self._rows), search_k=wanted or -1)
        return np.asarray(found, np.int64)

    def keep(self, *, files: Files | None = None) -> ForestFile:
        """Build it and put it into its folder, durably; it is mapped from there on. Raises `OSError`."""
        files = files or Files()
        if self.file is not None:
            return self.file
        self._build()
        name = f"{uuid.uuid4().hex}{SUFFIX}"
        temporary = self._path or self.folder / f".{name}.tmp"
        try:
            if self._path is None:
                self._index.save(str(temporary))
            self._index.unload()
            _sync(temporary, files)
            size, checksum = _summed(temporary)
            temporary.replace(self.folder / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        files.sync_directory(self.folder)
        file = ForestFile(name, self._rows, size, checksum)
        self._index = _mapped(self.method, self.folder / name, self._rows)
        self._path, self.file = None, file
        return file

    def error(self, vectors: Float32) -> float | None:  # noqa: ARG002 -- it keeps them as they are
        return None

    def save(self, write: Write) -> None:
        """Keep it, and write which file that is."""
        write(json.dumps(self.keep().as_dict()).encode())

    def _build(self) -> None:
        with self._building:
            if not self._built:
                self._index.set_seed(_SEED)
                self._index.build(self.method.trees, n_jobs=self._threads)
                self._built = True


def make(forest: Forest, folder: Path, *, on_disk: bool = True, threads: int = 1) -> AnnoyCodes:
    """An empty forest, to be kept in `folder`; with `on_disk` built there, too, else in memory.

    Raises `MissingExtra` and `OSError`.
    """
    index = require().AnnoyIndex(forest.dimension, _DISTANCES[forest.metric])
    path = None
    if on_disk:
        path = folder / f".{uuid.uuid4().hex}{SUFFIX}.tmp"
        index.on_disk_build(str(path))
    return AnnoyCodes(forest, index, folder, path=path, threads=threads)


def load(forest: Forest, read: Read, folder: Path) -> AnnoyCodes:
    """A forest as `save` left it; every byte is checked first.

    Raises `ValueError` where it is damaged, missing or another one, `OSError`, and `MissingExtra`.
    """
    return open_file(forest, folder, _recorded(read))


def open_file(forest: Forest, folder: Path, file: ForestFile) -> AnnoyCodes:
    """The same for a file that is known."""
    return AnnoyCodes(forest, _mapped(forest, file.check(folder), file.rows), folder, file=file)


class AnnoyBackend(Backend[Forest]):
    """See `Backend`. The forest is a file in the home's folder; the saved file names it."""

    def require(self, settings: Settings) -> object:  # noqa: ARG002 -- whatever they say
        return require()

    def way(self, settings: Settings, kind: str, dimension: int, rows: int, metric: Metric) -> Forest:  # noqa: ARG002 -- one kind, whatever its size
        return Forest(dimension, settings.trees, settings.search_k, settings.rescored or _RESCORED, metric)

    def read_way(self, values: dict[str, Any]) -> Forest:
        return Forest(**{name: value for name, value in values.items() if name != "kind"})

    def make(self, way: Forest, sample: Float32, home: Home) -> AnnoyCodes:  # noqa: ARG002 -- there is nothing to train
        Files().make_directory(home.folder)
        return make(way, home.folder, threads=home.settings.threads)

    def load(self, way: Forest, read: Read, home: Home) -> AnnoyCodes:
        return load(way, read, home.folder)

    def check(self, way: Forest, read: Read, folder: Path) -> None:  # noqa: ARG002 -- its parameters are in the head
        _recorded(read).check(folder)

    def tidy(self, codes: Codes, home: Home) -> None:
        if isinstance(codes, AnnoyCodes) and codes.file is not None:
            for path in home.folder.iterdir():
                if path.name != codes.file.name:
                    path.unlink()

    def remove(self, way: Forest, home: Home) -> None:  # noqa: ARG002 -- everything in the folder is the forest's
        Files().remove_tree(home.folder)


BACKEND = AnnoyBackend()


def _recorded(read: Read) -> ForestFile:
    try:
        values, _ = json.JSONDecoder().raw_decode(read(_MOST_RECORD_BYTES).decode("utf-8", "replace"))
        return ForestFile(**values)
    except TypeError as error:  # of another version
        raise ValueError(f"it names no forest: {error}") from error


def _mapped(forest: Forest, path: Path, rows: int) -> Any:
    index = require().AnnoyIndex(forest.dimension, _DISTANCES[forest.metric])
    if rows:  # a file of none is empty, which Annoy refuses
        index.load(str(path))
    if index.get_n_items() != rows:
        raise ValueError(f"{path.name} is of {index.get_n_items()} vectors, not of {rows}")
    return index


def _check_room(path: Path, size: int) -> None:
    free = Files().free_bytes(path.parent) + path.stat().st_size
    if free < size * _ROOM_FACTOR:
        raise StorageFull(
            f"a forest of {size / 1e6:,.0f} MB is built with room for half as much again, and {free / 1e6:,.0f} MB "
            f"are free",
            wanted_bytes=int(size * _ROOM_FACTOR),
            free_bytes=free,
        )


def _sync(path: Path, files: Files) -> None:
    descriptor = files.open_append(path)
    try:
        files.sync_data(descriptor)
    finally:
        os.close(descriptor)


def _summed(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file."""
    size = checksum = 0
    with path.open("rb") as file:
        while data := file.read(_BLOCK_BYTES):
            size, checksum = size + len(data), zlib.crc32(data, checksum)
    return size, checksum

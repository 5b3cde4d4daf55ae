"""Names that a user may write, and where the code behind each name lives.

Covers the tables of settings sections, embedding engines, sources and vector indexes, the entry points with which a
third party adds to them, and importing on demand. Every value is a string, `"package.module:attribute"`, so that this
module imports nothing of Embank but its errors and a name costs nothing until it is used.

Does not know what the things behind the names are or how they are called; the caller does.

A third party adds an engine, a source, a kind of index or a reranker with an entry point in the table's group. A name
that Embank itself has can't be taken over by one; two packages that claim the same name are refused when that name is
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from embank.errors import InvalidInput


class Table(Mapping[str, str]):
    """Name -> import path; built-in names first, then those of installed entry points in `group`, if it has one.

    Read-only and thread-safe. Entry points are looked up only where the built-in names don't answer, since that reads
    the metadata of every installed package.
    """

    def __init__(self, what: str, built_in: Mapping[str, str], *, group: str | None = None) -> None:
        self.what = what
        self.group = group
        self._built_in = dict(built_in)

    def __getitem__(self, name: str) -> str:
        path = self._built_in.get(name)
        if path is not None:
            return path
        paths = self._entry_points().get(name)
        if paths is None:
            raise KeyError(name)
        if len(paths) > 1:
            raise InvalidInput(
                f"more than one installed package offers the {self.what} {name!r}: {', '.join(sorted(paths))}; "
                f"uninstall all but one",
                name=name,
                paths=sorted(paths),
            )
        return next(iter(paths))

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from (name for name in self._entry_points() if name not in self._built_in)

    def __len__(self) -> int:
        return len(set(self._built_in) | set(self._entry_points()))

    def __repr__(self) -> str:
        return f"Table({self.what!r}, {self._built_in!r}, group={self.group!r})"

    def _entry_points(self) -> dict[str, set[str]]:
        """Name -> the import paths offered for it, over all installed packages."""
        if self.group is None:
            return {}
        from importlib.metadata import entry_points  # 15 ms that a built-in name doesn't pay

        offered: dict[str, set[str]] = {}
        for point in entry_points(group=self.group):
            offered.setdefault(point.name, set()).add(point.value)
        return offered


SECTIONS = Table(
    "settings section",
    {
        "log": "embank.system.log_settings:Settings",
        "memory": "embank.memory.settings:Settings",
        "recovery": "embank.memory.recovery_settings:Settings",
        "creep": "embank.memory.creep.settings:Settings",
        "cache": "embank.cache.settings:Settings",
        "source": "embank.source.settings:Settings",
        "chunk": "embank.chunk.settings:Settings",
        "embed": "embank.embed.settings:Settings",
        "remote": "embank.embed.remote.settings:Settings",
        "worker": "embank.embed.worker.settings:Settings",
        "store": "embank.store.settings:Settings",
        "index": "embank.store.index.settings:Settings",
        "hot": "embank.store.hot.settings:Settings",
        "search": "embank.search.settings:Settings",
        "http": "embank.http.settings:Settings",
        "client": "embank.client.settings:Settings",
        "telemetry": "embank.http.telemetry.settings:Settings",
    },
)
"""The settings of every room, so that a wrong key is found whichever room owns it."""

ENGINES = Table(
    "embedding engine",
    {
        "ct2": "embank.embed.engines.ct2:load",
        "onnx": "embank.embed.engines.onnx:load",
        "openvino": "embank.embed.engines.openvino:load",
        "static": "embank.embed.engines.static:load",
        "torch": "embank.embed.engines.torch_engine:load",
    },
    group="embank.engines",
)

SOURCES = Table(
    "source",
    {
        "text": "embank.source.files:TextFiles",
        "jsonl": "embank.source.jsonl:JsonLines",
        "parquet": "embank.source.parquet:ParquetRows",
        "docstrings": "embank.source.docstrings:Docstrings",
        "stdlib": "embank.source.docstrings:StandardLibrary",
    },
    group="embank.sources",
)

RERANKERS = Table("reranker", {}, group="embank.rerankers")
"""Those of other packages; a model's folder is named as it is."""

INDEXES = Table(
    "kind of vector index",
    {
        "flat": "embank.store.index.faiss:BACKEND",
        "sq8": "embank.store.index.faiss:BACKEND",
        "pq": "embank.store.index.faiss:BACKEND",
        "pq-fastscan": "embank.store.index.faiss:BACKEND",
        "rabitq": "embank.store.index.faiss:BACKEND",
        "ivf": "embank.store.index.faiss:BACKEND",
        "hnsw": "embank.store.index.faiss:BACKEND",
        "chroma": "embank.store.index.chroma:BACKEND",
        "lancedb": "embank.store.index.lancedb:BACKEND",
        "annoy": "embank.store.index.annoy:BACKEND",
    },
    group="embank.indexes",
)
"""Kinds of index, and the `Backend` (`embank.store.index.backend`) that makes each."""


def resolve(table: Table, name: str) -> Any:
    """Import and return what `name` stands for.

    Raises `InvalidInput` for an unknown name (listing those known and suggesting the nearest) and for a path that
    leads nowhere. An error that the imported module itself raises, such as a missing dependency of it, passes through.
    """
    try:
        path = table[name]
    except KeyError:
        known = list(table)
        guess = nearest(name, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise InvalidInput(
            f"unknown {table.what} {name!r}: there are {', '.join(known)}{hint}", name=name, known=known
        ) from None
    return import_path(path)


def import_path(path: str) -> Any:
    """Import `"package.module:attribute"` (the attribute may be dotted) and return the attribute."""
    from importlib import import_module  # keeps the tables free to import

    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise InvalidInput(f"{path!r} is not an import path: write 'package.module:attribute'", path=path)
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        # Only where the path itself is wrong; a module that lacks one of *its* imports tells its own story.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InvalidInput(f"there is no module {error.name!r}, which {path!r} names", path=path) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise InvalidInput(
                f"module {module_name!r} has no {attribute!r}, which {path!r} names", path=path
            ) from error
    return found


def nearest(wanted: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is most like `wanted`, or None where none is alike (ratio of difflib below 0.6).

    A dotted name is also compared by its last part, so that a right key in the wrong section is found: `store.budget`
    suggests `memory.budget`. Of equals the first wins.
    """
    from difflib import SequenceMatcher  # only an error pays for it

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, candidate, wanted.lower()).ratio()
        last = SequenceMatcher(None, candidate.rpartition(".")[2], wanted.lower().rpartition(".")[2]).ratio()
        return max(whole, 0.85 * last)

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.6 else None

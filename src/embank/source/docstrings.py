"""Docstrings of Python code: of a folder, a file or an installed package, and of the standard library.

One document a docstring. Its id is the qualified name, `subprocess.run` or `datetime.datetime.strptime`, a module's
the module's name; its text is the name with its parameters, a blank line and the cleaned docstring, since people search
for names as well as for what they do. Code is read, never imported (but see `StandardLibrary`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embank.errors import SourceError
from embank.records import Document
from embank.source.files import open_regular
from embank.source.report import OnSkip, Reason, SourceReport
from embank.source.settings import Settings
from embank.source.syntax import Entry, docstrings
from embank.source.walk import FolderWalk, Found

SOURCE_LIMIT_BYTES = 4 << 20
"""A syntax tree takes some fifty times the size of its source; more than this is no code that people wrote."""

INTROSPECTION_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder of modules (or one file in it), and the name of the package that the folder is, "" for none."""

    folder: Path
    package: str = ""
    file: str | None = None

    def module(self, relative: str) -> str:
        """The name of the module in a file of this folder."""
        parts = [part for part in self.package.split(".") if part] + relative.removesuffix(".py").split("/")
        if parts[-1] == "__init__":
            parts.pop()
        return ".".join(parts)


class Docstrings:
    """The docstrings below a folder, of a file, or of an installed package by its dotted name. Follows `Source`.

    A string that is no path of anything is taken for a package's name. The include and exclude globs, `.gitignore`
    and the rest of the settings about folders hold. Raises `SourceError` when there is neither path nor package.

    Metadata: `module`, `name` (within the module), `kind` (module, class, function, method), `path`, `line`.
    """

    def __init__(
        self,
        path_or_package: str | os.PathLike[str],
        *,
        settings: Settings | None = None,
        on_skip: OnSkip | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._on_skip = on_skip
        self._places, self._root = _found_places(path_or_package)
        self._report = SourceReport()
        self._bytes_total: int | None = None

    @property
    def root(self) -> str:
        """`python:` and the path's URI or the package's name."""
        return self._root

    @property
    def report(self) -> SourceReport:
        """Counts of the present (or the last) iteration; `items` are files."""
        return self._report

    @property
    def bytes_total(self) -> int | None:
        """The sizes of the Python files, found by a walk of its own."""
        if self._bytes_total is None:
            self._bytes_total = sum(found.size_bytes for _, found in self._files(_quietly))
        return self._bytes_total

    def documents(self) -> Iterator[Document]:
        """Stream the docstrings, file by file, sorted by name, each file's in its order."""
        self._report = SourceReport()
        return self._stream(self._report)

    def _stream(self, report: SourceReport) -> Iterator[Document]:
        def skip(origin: str, reason: Reason, detail: str) -> None:
            report.items += 1
            report.skip(origin, reason, detail, then=self._on_skip)

        for place, found in self._files(skip):
            report.items += 1
            for document in self._read(place, found, report):
                report.documents += 1
                yield document
            report.bytes_done += found.size_bytes

    def _files(self, skip: OnSkip) -> Iterator[tuple[_Place, Found]]:
        for place in self._places:
            if place.file is not None:
                path = place.folder / place.file
                yield place, Found(str(path), place.file, path.stat().st_size)
                continue
            for found in FolderWalk(place.folder, settings=self._settings, skip=skip).files():
                if found.relative.endswith(".py"):
                    yield place, found

    def _read(self, place: _Place, found: Found, report: SourceReport) -> Iterator[Document]:
        module = place.module(found.relative)
        problem = _problem(found)
        if problem is not None:
            report.skip(found.relative, *problem, then=self._on_skip)
            return
        try:
            with open_regular(found.path) as stream:
                source = stream.read(SOURCE_LIMIT_BYTES + 1)
            entries = docstrings(source, file=found.relative)
            for entry in entries:
                yield _document(module, entry, path=found.relative)
        except OSError as error:
            reason: Reason = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
            report.skip(found.relative, reason, error.strerror or str(error), then=self._on_skip)
        except (SyntaxError, ValueError) as error:
            report.skip(found.relative, "syntax error", str(error), then=self._on_skip)
        except (RecursionError, MemoryError) as error:  # how the parser says that code is nested too deeply
            report.skip(found.relative, "syntax error", f"nested too deeply: {error}", then=self._on_skip)


class StandardLibrary:
    """The documentation of the running Python's standard library: some 8,000 docstrings. Follows `Source`.

    Covers every Python file except tests and bundled packages, by its syntax tree, and what is written in C (built-in
    functions and types, `math`, `itertools`, the insides of `os`, `socket`, …), by a short-lived child that imports it.
    An id comes once: where a thing is there in Python and in C, the Python one is kept. Private names, those with a
    part that begins with an underscore and is no `__dunder__`, are left out: nobody is meant to use them.

    Raises `SourceError` where the library is not there as files. The same for one version of Python on one platform.
    """

    _EXCLUDED = (
        "test/",
        "tests/",
        "idle_test/",
        "site-packages/",
        "dist-packages/",
        "__pycache__/",
        "lib-dynload/",
        "config-*/",
        "ensurepip/_bundled/",
    )
    # Python twins of modules in C, documented under the name that people import.
    _PUBLIC = {"_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime"}  # noqa: RUF012 - never changed

    def __init__(self, *, on_skip: OnSkip | None = None, folder: str | os.PathLike[str] | None = None) -> None:
        self._on_skip = on_skip
        self._folder = Path(folder or sysconfig.get_path("stdlib"))
        if not (self._folder / "os.py").is_file():
            raise SourceError(f"the standard library is not there as files: {self._folder}", path=str(self._folder))
        self._files = Docstrings(
            self._folder,
            settings=Settings(exclude=self._EXCLUDED, include=("*.py",), gitignore=False),
            on_skip=on_skip,
        )

    @property
    def root(self) -> str:
        """Always `python:stdlib`."""
        return "python:stdlib"

    @property
    def report(self) -> SourceReport:
        """Counts of the present (or the last) iteration; `items` are files."""
        return self._files.report

    @property
    def bytes_total(self) -> int | None:
        """The sizes of the Python files; what is written in C adds nothing to it."""
        return self._files.bytes_total

    def documents(self) -> Iterator[Document]:
        """Stream the docstrings: Python's files sorted by path, then the modules in C sorted by name."""
        from_files = self._files.documents()
        return self._stream(from_files, self._files.report)

    def _stream(self, from_files: Iterator[Document], report: SourceReport) -> Iterator[Document]:
        seen: set[str] = set()
        for document in from_files:
            renamed = self._renamed(document)
            if renamed.id in seen or not _is_public(renamed.id):
                report.documents -= 1
                continue
            seen.add(renamed.id)
            yield renamed
        for document in self._from_c(report):
            if document.id not in seen and _is_public(document.id):
                seen.add(document.id)
                report.documents += 1
                yield document

    def _renamed(self, document: Document) -> Document:
        module = document.metadata["module"]
        public = self._PUBLIC.get(module)
        if public is None or document.metadata["kind"] == "module":
            return document
        return Document(
            document.id.replace(module, public, 1),
            document.text.replace(module, public, 1),
            {**document.metadata, "module": public},
            document.origin,
        )

    def _from_c(self, report: SourceReport) -> Iterator[Document]:
        script = Path(__file__).with_name("introspect.py")
        command = [sys.executable, "-I", "-S", "-B", "-W", "ignore", str(script)]
        try:
            done = subprocess.run(
                command, capture_output=True, check=True, timeout=INTROSPECTION_LIMIT_S, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None) or b""
            detail = told.decode("utf-8", "replace").strip().rpartition("\n")[2] or str(error)
            report.skip("modules in C", "unreadable", detail, then=self._on_skip)
            return
        for line in done.stdout.splitlines():
            row: dict[str, str] = json.loads(line)
            if "skip" in row:
                report.skip(row["skip"], "unreadable", row["detail"], then=self._on_skip)
                continue
            module = row.pop("module")
            yield _document(module, Entry(**row, line=0))  # type: ignore[arg-type] # `kind` is one of its values


def _document(module: str, entry: Entry, *, path: str | None = None) -> Document:
    qualified = f"{module}.{entry.name}" if entry.name else module
    metadata: dict[str, Any] = {"module": module, "name": entry.name or module, "kind": entry.kind}
    if path is not None:
        metadata |= {"path": path, "line": entry.line}
    # Nobody writes builtins.len.
    called = qualified.partition("#")[0].removeprefix("builtins.")
    return Document(qualified, f"{called}{entry.signature}\n\n{entry.doc}", metadata, module)


def _is_public(name: str) -> bool:
    return not any(
        part.startswith("_") and not (part.startswith("__") and part.endswith("__"))
        for part in name.partition("#")[0].split(".")
    )


def _problem(found: Found) -> tuple[Reason, str] | None:
    if found.size_bytes > SOURCE_LIMIT_BYTES:
        return "oversized", f"{found.size_bytes:,} bytes of code"
    if (Path(found.path.removesuffix(".py")) / "__init__.py").is_file():
        return "duplicate", "Python imports the package of the same name instead"
    return None


def _found_places(path_or_package: str | os.PathLike[str]) -> tuple[list[_Place], str]:
    path = Path(path_or_package)
    try:
        resolved = path.resolve(strict=True)
    except FileNotFoundError:
        name = os.fspath(path_or_package)
        if not all(part.isidentifier() for part in name.split(".")):
            raise SourceError(f"there is no file or folder {name!r}", path=name) from None
        return _package(name), f"python:{name}"
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"{path} can't be read: {error}", path=str(path)) from error
    if resolved.is_dir():
        return [_Place(resolved, _package_of(resolved))], f"python:{resolved.as_uri()}"
    if resolved.is_file() and resolved.suffix == ".py":
        return [_Place(resolved.parent, _package_of(resolved.parent), resolved.name)], f"python:{resolved.as_uri()}"
    raise SourceError(f"{path} is neither a folder nor a .py file", path=str(path))


def _package_of(folder: Path) -> str:
    """The dotted name of the package that a folder is, "" where it is none."""
    parts: list[str] = []
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


def _package(name: str) -> list[_Place]:
    """Where an installed package or module lies; only its topmost name is looked up, which imports nothing."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError) as error:
        raise SourceError(f"the package {name!r} can't be found: {error}", package=name) from error
    if spec is None:
        raise SourceError(f"there is neither a path nor an installed package {name!r}", package=name)
    if spec.submodule_search_locations is None:
        locations = [Path(spec.origin)] if not rest and spec.origin and spec.origin.endswith(".py") else []
    else:
        locations = [Path(location, *rest) for location in spec.submodule_search_locations]
    places = []
    for location in locations:
        if location.is_dir():
            places.append(_Place(location, name))
        elif (module := location if location.suffix == ".py" else location.with_suffix(".py")).is_file():
            places.append(_Place(module.parent, name.rpartition(".")[0], module.name))
    if not places:
        raise SourceError(f"{name!r} has no Python source", package=name)
    return places


def _quietly(origin: str, reason: Reason, detail: str) -> None:
    """Skips are counted by the iteration, not by the estimate."""

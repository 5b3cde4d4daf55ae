"""Docstrings from the syntax tree, and the standard library's documentation."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from embank.errors import SourceError
from embank.records import Document
from embank.source import docstrings as room
from embank.source.docstrings import Docstrings, StandardLibrary
from embank.source.protocol import Source

CODE = r'''
"""The module."""
raise SystemExit("nobody may import this")

class Shape(Base, metaclass=Meta):
    """A shape.

    First.
        Indented.
    """

    def area(self, scale: float = 1.0, /, *, unit="m", table={"a": [1, 2, 3], "b": [4, 5, 6]}) -> float:
        """The area."""
        def inner():
            """Unreachable by name."""

    @property
    def name(self):
        """The name."""

    @classmethod
    def make(cls, *sides, **rest): "Make one."

    def silent(self):
        pass

    class Part:
        """Inside."""

if x:
    def twice():
        """The first."""
else:
    async def twice():
        """The second."""

try:
    pass
except ImportError:
    def fallback():
        """Only then."""

def blank():
    """   """

def odd():
    "half \ud800 and \d"
'''


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_every_docstring_of_a_file(tmp_path: Path) -> None:
    source = Docstrings(write(tmp_path, "shapes.py", CODE))
    assert isinstance(source, Source)
    texts = {document.id: document.text for document in source.documents()}
    assert texts == {
        "shapes": "shapes\n\nThe module.",
        "shapes.Shape": "shapes.Shape(Base)\n\nA shape.\n\nFirst.\n    Indented.",
        "shapes.Shape.area": "shapes.Shape.area(scale=1.0, /, *, unit='m', table=…)\n\nThe area.",
        "shapes.Shape.name": "shapes.Shape.name\n\nThe name.",
        "shapes.Shape.make": "shapes.Shape.make(*sides, **rest)\n\nMake one.",
        "shapes.Shape.Part": "shapes.Shape.Part\n\nInside.",
        "shapes.twice": "shapes.twice()\n\nThe first.",
        "shapes.twice#2": "shapes.twice()\n\nThe second.",
        "shapes.fallback": "shapes.fallback()\n\nOnly then.",
        "shapes.odd": "shapes.odd()\n\nhalf \\ud800 and \\d",
    }


def test_metadata(tmp_path: Path) -> None:
    write(tmp_path, "pkg/__init__.py", '"""Package."""')
    write(tmp_path, "pkg/mod.py", "\n\nclass A:\n    def b(self):\n        'Doc.'\n")
    assert list(Docstrings(tmp_path).documents()) == [
        Document(
            "pkg",
            "pkg\n\nPackage.",
            {"module": "pkg", "name": "pkg", "kind": "module", "path": "pkg/__init__.py", "line": 1},
            "pkg",
        ),
        Document(
            "pkg.mod.A.b",
            "pkg.mod.A.b()\n\nDoc.",
            {"module": "pkg.mod", "name": "A.b", "kind": "method", "path": "pkg/mod.py", "line": 4},
            "pkg.mod",
        ),
    ]


def test_a_folder_inside_a_package_keeps_the_names(tmp_path: Path) -> None:
    for name in ("outer/__init__.py", "outer/inner/__init__.py", "outer/inner/mod.py"):
        write(tmp_path, name, '"""Doc."""')
    expected = ["outer.inner", "outer.inner.mod"]
    assert [document.id for document in Docstrings(tmp_path / "outer" / "inner").documents()] == expected
    one = Docstrings(tmp_path / "outer" / "inner" / "mod.py")
    assert [document.id for document in one.documents()] == ["outer.inner.mod"]


BAD: dict[str, tuple[str | bytes, str]] = {
    "syntax": ("def f(:\n", "syntax error"),
    "nul": (b"x = '\0'\n", "syntax error"),
    "bytes": (b"x = '\xff'\n", "syntax error"),
    "cookie": (b"# coding: nonsense\n", "syntax error"),
    "nesting": ("(" * 5_000 + ")" * 5_000, "syntax error"),
    "size": (b"#" * (room.SOURCE_LIMIT_BYTES + 1), "oversized"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_python_are_counted(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    write(tmp_path, "bad.py", content)
    write(tmp_path, "good.py", '"""Doc."""')
    source = Docstrings(tmp_path)
    assert [document.id for document in source.documents()] == ["good"]
    assert source.report.skipped == {reason: 1}
    assert source.report.samples[0].origin == "bad.py"
    assert source.report.bytes_done == source.bytes_total


def test_a_declared_encoding_is_honoured(tmp_path: Path) -> None:
    write(tmp_path, "a.py", '# coding: latin-1\n"""Größe."""'.encode("latin-1"))
    assert [document.text for document in Docstrings(tmp_path).documents()] == ["a\n\nGröße."]


def test_a_module_beside_a_package_of_its_name(tmp_path: Path) -> None:
    write(tmp_path, "a.py", '"""Module."""')
    write(tmp_path, "a/__init__.py", '"""Package."""')
    source = Docstrings(tmp_path)
    assert [document.text for document in source.documents()] == ["a\n\nPackage."]
    assert source.report.skipped == {"duplicate": 1}


def test_packages_by_name_without_importing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = '"""Doc."""\nraise SystemExit\n'
    write(tmp_path, "lonely_package/__init__.py", code)
    write(tmp_path, "lonely_package/part/mod.py", code)
    write(tmp_path, "lonely_module.py", code)
    monkeypatch.syspath_prepend(str(tmp_path))

    def ids(name: str) -> list[str]:
        return [document.id for document in Docstrings(name).documents()]

    assert ids("lonely_package") == ["lonely_package", "lonely_package.part.mod"]
    assert ids("lonely_package.part") == ["lonely_package.part.mod"]
    assert ids("lonely_package.part.mod") == ["lonely_package.part.mod"]
    assert ids("lonely_module") == ["lonely_module"]
    assert Docstrings("lonely_module").root == "python:lonely_module"
    assert "lonely_package" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package", "./no/such/folder", "sys", "json.nothing"])
def test_what_can_t_be_found_is_named(name: str) -> None:
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        Docstrings(name)


@pytest.fixture(scope="module")
def library() -> tuple[StandardLibrary, dict[str, Document]]:
    source = StandardLibrary()
    documents = list(source.documents())
    assert len({document.id for document in documents}) == len(documents) == source.report.documents
    return source, {document.id: document for document in documents}


Library = tuple[StandardLibrary, dict[str, Document]]


def test_the_standard_library_is_a_real_corpus(library: Library) -> None:
    source, documents = library
    assert len(documents) >= 7_000
    assert source.root == "python:stdlib"
    assert source.report.bytes_done == source.bytes_total
    assert set(source.report.skipped) <= {"ignored"}
    assert not [name for name in documents if name.startswith(("test.", "idlelib.idle_test", "site-packages"))]


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("subprocess.run", "subprocess.run(*popenargs, input=None, capture_output=False,"),
        ("datetime.datetime.strptime", "datetime.datetime.strptime(date_string, format)"),
        ("builtins.len", "len(obj)\n\nReturn the number of items"),
        ("builtins.str.split", "str.split(sep=None, maxsplit=-1)"),
        ("os.listdir", "os.listdir(path=None)"),
        ("math.gcd", "math.gcd(*integers)"),
        ("itertools.chain", "itertools.chain"),
        ("decimal.Decimal.quantize", "decimal.Decimal.quantize("),
        ("socket.socket.send", "socket.socket.send"),
        ("json", "json\n\nJSON (JavaScript Object Notation)"),
    ],
)
def test_things_are_named_as_people_know_them(library: Library, name: str, beginning: str) -> None:
    assert library[1][name].text.startswith(beginning)


def test_no_text_is_blank_and_all_encode(library: Library) -> None:
    for document in library[1].values():
        assert document.text.partition("\n\n")[2].strip()
        document.text.encode("utf-8")


def test_the_same_twice(library: Library, tmp_path: Path) -> None:
    """Of a few of its modules, and all that is written in C."""
    for name in ("datetime.py", "os.py", "subprocess.py"):
        shutil.copy(Path(sysconfig.get_path("stdlib"), name), tmp_path)
    shutil.copytree(Path(sysconfig.get_path("stdlib"), "email"), tmp_path / "email")
    source = StandardLibrary(folder=tmp_path)
    first, second = list(source.documents()), list(source.documents())
    assert len(first) > 2_000
    assert [(document.id, document.text) for document in first] == [(each.id, each.text) for each in second]
    assert {document.id for document in first} <= set(library[1])


def test_a_child_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, "os.py", '"""Doc."""')

    def fails(command: list[str], **_: Any) -> Any:
        raise subprocess.CalledProcessError(3, command, b"", b"Traceback\nMemoryError: no")

    monkeypatch.setattr(room.subprocess, "run", fails)  # type: ignore[attr-defined]
    source = StandardLibrary(folder=tmp_path)
    assert [document.id for document in source.documents()] == ["os"]
    assert source.report.samples == [("modules in C", "unreadable", "MemoryError: no")]


def test_a_folder_that_is_no_standard_library(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not there as files"):
        StandardLibrary(folder=tmp_path)


def test_private_names_are_no_documentation(library: Library) -> None:
    names = set(library[1])
    assert {"subprocess.run", "datetime.datetime.__add__", "builtins.list.sort"} <= names
    private = [name for name in names if any(p.startswith("_") and not p.endswith("__") for p in name.split("."))]
    assert private == []

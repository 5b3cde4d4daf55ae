"""The documentation of the modules that Python has in C, by importing them and asking.

Run as a program of its own, in a short-lived child (`StandardLibrary` does that), so that seventy extension modules
are never loaded where the budget is kept, and one that misbehaves takes nobody along. It imports nothing but the
standard library and prints one JSON object a line: `module`, `name`, `kind`, `signature`, `doc`; or `skip`, `detail`.
Objects are named where people import them from: `os.listdir`, not `posix.listdir`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

# `_tkinter` needs a display's libraries, `readline` writes to terminals, the grammar in `_ast` documents nothing.
LEFT_OUT = frozenset({"_tkinter", "readline", "_ast", "_gdbm", "_dbm"})

PUBLIC = {
    "posix": "os",
    "pyexpat": "xml.parsers.expat",
    "_elementtree": "xml.etree.ElementTree",
    "_thread": "threading",
    "_sre": "re",
    "_lsprof": "cProfile",
    "_posixsubprocess": "subprocess",
    "_imp": "importlib",
    "_collections_abc": "collections.abc",
    "_blake2": "hashlib",
    "_hashlib": "hashlib",
    "_md5": "hashlib",
    "_sha1": "hashlib",
    "_sha2": "hashlib",
    "_sha256": "hashlib",
    "_sha512": "hashlib",
    "_sha3": "hashlib",
}
"""Where the public face of a C module is, when not under its own name without the underscore."""

_MEMBERS = (
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    classmethod,
    staticmethod,
)


def module_names() -> list[str]:
    """The standard library's modules in C, sorted: those inside the interpreter and those beside it."""
    names = set(sys.builtin_module_names)
    for folder in map(Path, sys.path):
        if folder.name == "lib-dynload" and folder.is_dir():
            files = (file.name for file in folder.iterdir() if file.name.endswith(tuple(EXTENSION_SUFFIXES)))
            names.update(name.partition(".")[0] for name in files)
    # Tests and examples (`_testcapi`, `xxlimited`) are not among the names of the standard library.
    return sorted(names & sys.stdlib_module_names - LEFT_OUT)


def entries(name: str) -> Iterator[dict[str, str]]:
    """What one module documents: itself, its functions, its classes and their members, sorted by name."""
    module = importlib.import_module(name)
    public = _public_module(name)
    if public is None and module.__doc__:
        yield _entry(name, "", "module", module)
    for attribute, value in sorted(vars(module).items()):
        is_class = isinstance(value, type)
        if attribute.startswith("_") or not (is_class or isinstance(value, types.BuiltinFunctionType)):
            continue
        if is_class and (value.__name__ != attribute or (value.__module__ == "builtins") != (name == "builtins")):
            continue  # an alias, such as os.error
        owner = _owner(name, public, attribute, value)
        if is_class:
            yield from _class(owner, attribute, value)
        elif value.__doc__:
            yield _entry(owner, attribute, "function", value)


def _class(owner: str, name: str, value: type) -> Iterator[dict[str, str]]:
    if value.__doc__:
        yield _entry(owner, name, "class", value)
    for attribute, member in sorted(vars(value).items()):
        if not attribute.startswith("_") and isinstance(member, _MEMBERS) and member.__doc__:
            bound = getattr(value, attribute) if isinstance(member, classmethod | staticmethod) else member
            yield _entry(owner, f"{name}.{attribute}", "method", bound)


def _entry(owner: str, name: str, kind: str, value: object) -> dict[str, str]:
    signature = "" if kind == "module" else _signature(value)
    doc = inspect.cleandoc(str(value.__doc__)).strip()
    return {"module": owner, "name": name, "kind": kind, "signature": signature, "doc": doc}


def _signature(value: object) -> str:
    """The parameters, without `self` and markers; many C functions tell them in their documentation only."""
    # inspect.signature() would evaluate the defaults, which fails where they name what isn't there.
    told: str = getattr(value, "__text_signature__", None) or ""
    return re.sub(r"\$\w+(, |(?=\)))|/, |(, )?/(?=\))", "", told)


def _public_module(name: str) -> types.ModuleType | None:
    """The module that a C module is the inside of."""
    public = PUBLIC.get(name, name.lstrip("_"))
    if public == name or public.partition(".")[0] not in sys.stdlib_module_names:
        return None
    return importlib.import_module(public)


def _owner(name: str, public: types.ModuleType | None, attribute: str, value: object) -> str:
    twin = getattr(public, attribute, None)
    wraps = isinstance(value, type) and isinstance(twin, type) and issubclass(twin, value)  # socket.socket
    if public is not None and (twin is value or wraps):
        return public.__name__
    told = getattr(value, "__module__", None)
    if isinstance(value, type) and told and not told.startswith("_"):
        holder = importlib.import_module(told) if told.partition(".")[0] in sys.stdlib_module_names else None
        if getattr(holder, attribute, None) is value:
            return str(told)
    return name


def main() -> None:
    """Print everything."""
    for name in module_names():
        try:
            for entry in entries(name):
                sys.stdout.write(json.dumps(entry) + "\n")
        except Exception as error:  # noqa: BLE001 - one module must not cost the others; it is told and counted
            sys.stdout.write(json.dumps({"skip": name, "detail": f"{type(error).__name__}: {error}"}) + "\n")


if __name__ == "__main__":
    main()

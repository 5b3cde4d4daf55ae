"""Docstrings out of Python source by its syntax tree; nothing is imported or run.

Covers modules, classes, functions and methods at any depth outside of functions, also inside `if`, `try` and `with`.
Functions inside functions are left out: nobody can call them by name. One file's tree is held at a time.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["module", "class", "function", "method"]

SIGNATURE_CHARS = 240
_DEFAULT_CHARS = 24

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Block = ast.If | ast.Try | ast.TryStar | ast.With


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented thing: its name within the module ("" for the module itself), how it is called, its text."""

    name: str
    kind: Kind
    signature: str
    doc: str
    line: int


def docstrings(source: bytes, *, file: str = "<source>") -> Iterator[Entry]:
    """The docstrings of a file, in its order; a name that comes again gets `#2`, `#3`, ….

    Raises SyntaxError where it is no Python of this version, ValueError at NUL bytes, and RecursionError or
    MemoryError at absurd nesting. Not for several threads at once: warnings are silenced while it parses.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code are not ours to report
        tree = ast.parse(source, file)
    seen: Counter[str] = Counter()
    doc = _doc(tree)
    if doc:
        yield Entry("", "module", "", doc, 1)
    for entry in _entries(tree.body, prefix="", in_class=False):
        seen[entry.name] += 1
        if entry.doc:
            nth = seen[entry.name]
            yield entry if nth == 1 else replace(entry, name=f"{entry.name}#{nth}")


def _entries(body: list[ast.stmt], *, prefix: str, in_class: bool) -> Iterator[Entry]:
    for node in body:
        if isinstance(node, _Function):
            kind: Kind = "method" if in_class else "function"
            yield Entry(prefix + node.name, kind, _signature(node, in_class=in_class), _doc(node), node.lineno)
        elif isinstance(node, ast.ClassDef):
            yield Entry(prefix + node.name, "class", _bases(node), _doc(node), node.lineno)
            yield from _entries(node.body, prefix=f"{prefix}{node.name}.", in_class=True)
        elif isinstance(node, _Block):
            for nested in _blocks(node):
                yield from _entries(nested, prefix=prefix, in_class=in_class)


def _blocks(node: _Block) -> Iterator[list[ast.stmt]]:
    yield node.body
    if isinstance(node, ast.Try | ast.TryStar):
        yield from (handler.body for handler in node.handlers)
    if not isinstance(node, ast.With):
        yield node.orelse
    if isinstance(node, ast.Try | ast.TryStar):
        yield node.finalbody


def _doc(node: ast.Module | ast.ClassDef | _Function) -> str:
    r"""The cleaned docstring, "" for none; lone surrogates, which `"\ud800"` can put there, are shown as escapes."""
    doc = ast.get_docstring(node, clean=False)
    if not doc:
        return ""
    return inspect.cleandoc(doc).strip().encode("utf-8", "backslashreplace").decode("utf-8")


def _bases(node: ast.ClassDef) -> str:
    bases = ", ".join(_short(base) for base in node.bases)
    return _clip(f"({bases})") if bases else ""


def _signature(node: _Function, *, in_class: bool) -> str:
    """The parameters as a caller sees them: names and short defaults, no annotations, no `self`."""
    if any(isinstance(each, ast.Name) and each.id in {"property", "cached_property"} for each in node.decorator_list):
        return ""
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    shown = [_parameter(arg, default) for arg, default in zip(positional, defaults, strict=True)]
    if args.posonlyargs:
        shown.insert(len(args.posonlyargs), "/")
    if in_class and positional and positional[0].arg in {"self", "cls"}:
        del shown[0]
        if shown[:1] == ["/"]:
            del shown[0]
    if args.vararg:
        shown.append(f"*{args.vararg.arg}")
    elif args.kwonlyargs:
        shown.append("*")
    shown += [_parameter(arg, default) for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if args.kwarg:
        shown.append(f"**{args.kwarg.arg}")
    return _clip(f"({', '.join(shown)})")


def _parameter(arg: ast.arg, default: ast.expr | None) -> str:
    return arg.arg if default is None else f"{arg.arg}={_short(default)}"


def _short(expression: ast.expr) -> str:
    shown = ast.unparse(expression)
    return shown if len(shown) <= _DEFAULT_CHARS and shown.isprintable() else "…"


def _clip(signature: str) -> str:
    return signature if len(signature) <= SIGNATURE_CHARS else signature[: SIGNATURE_CHARS - 2] + "…)"

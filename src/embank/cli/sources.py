"""From what a user names on the command line to a source that can be read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from embank.errors import InvalidInput
from embank.registry import SOURCES, resolve

if TYPE_CHECKING:
    from embank.pipeline import OnSkip
    from embank.source.protocol import Source
    from embank.source.settings import Settings

STANDARD_INPUT = "-"
STANDARD_LIBRARY = "stdlib"
_PARQUET = (".parquet", ".pq")
_JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True, slots=True)
class Named:
    """A source as named. `kind` is a name in the table of sources; `make` opens it, told what to call at each skip."""

    name: str
    kind: str
    make: Callable[[OnSkip], Source]


def named_source(name: str, *, kind: str | None, settings: Settings) -> Named:
    """The source that `name` stands for: read as `kind` where given, else as its name suggests.

    Raises `InvalidInput` for an unknown kind. That there is nothing of that name is found when it is opened.
    """
    chosen = kind or guessed_kind(name)
    if name == STANDARD_INPUT and chosen != "jsonl":
        raise InvalidInput(f"standard input is read as jsonl, not as {chosen}", kind=chosen)
    make = resolve(SOURCES, chosen)
    if chosen == STANDARD_LIBRARY:
        return Named(name, chosen, lambda on_skip: cast("Source", make(on_skip=on_skip)))
    return Named(name, chosen, functools.partial(_opened, make, name, settings))


def guessed_kind(name: str) -> str:
    """`stdlib` and `-` mean themselves (a folder of that name is `./stdlib`); the rest is told by how it ends."""
    if name == STANDARD_LIBRARY:
        return STANDARD_LIBRARY
    if name == STANDARD_INPUT or (name.lower().endswith(_JSON_LINES) and not Path(name).is_dir()):
        return "jsonl"
    return "parquet" if name.lower().endswith(_PARQUET) and not Path(name).is_dir() else "text"


def _opened(make: Any, name: str, settings: Settings, on_skip: OnSkip) -> Source:
    return cast("Source", make(name, settings=settings, on_skip=on_skip))

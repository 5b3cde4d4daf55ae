"""How results look: tables for people, one JSON document for programs, both on standard output; nothing else is there.

Text from documents, file names and messages is shown as it is, but for control characters: a document must not be able
to move the cursor of whoever lists it.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_PIPED_WIDTH = 160
"""Characters a line where no terminal says how wide it is."""


def write_json(document: object) -> None:
    """One JSON document and a line end; indented for a terminal. ASCII, so that any locale and file name will do."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, default=_as_json, indent=indent)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def console(stream: IO[str] | None = None) -> Console:
    """A console on standard output (or `stream`) that adds no colours, markup or emoji of its own."""
    from rich.console import Console

    target = stream or sys.stdout
    width = None if target.isatty() else _PIPED_WIDTH
    return Console(file=target, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def show(*renderables: RenderableType) -> None:
    """Print for people."""
    screen = console()
    for renderable in renderables:
        screen.print(renderable)
    sys.stdout.flush()


def say(*lines: str) -> None:
    """Print lines for people, as they are."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns in `numbers` stand right-aligned and are never broken."""
    from rich import box
    from rich.table import Table

    right = set(numbers)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        if column in right:
            made.add_column(column, justify="right", no_wrap=True)
        else:
            made.add_column(column, overflow="fold")
    return made


def add_row(to: Table, *cells: object, style: str | None = None) -> None:
    """A row of plain text; `None` shows as a dash, what rich can draw is drawn."""
    from rich.text import Text

    to.add_row(
        *(cell if isinstance(cell, Text) else Text("–" if cell is None else plain(str(cell))) for cell in cells),
        style=style,
    )


def plain(text: str, *, lines: bool = False) -> str:
    """`text` without control and formatting characters that could act on a terminal; line breaks stay if `lines`."""
    kept = "\n" if lines else ""
    if text.isprintable():
        return text
    return "".join(
        character
        if character in kept or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else (" " if character in "\n\r\t" else "\N{REPLACEMENT CHARACTER}")
        for character in text
    )


def one_line(text: str, limit: int) -> str:
    """At most `limit` characters of a text, white space collapsed."""
    # Only the beginning is looked at: white space alone seldom fills as much.
    words = " ".join(plain(text[: limit * 8]).split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def size(count: int) -> str:
    """Bytes as people read them, in the decimal units that settings take."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" or abs(amount) >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(at: float) -> str:
    """Seconds since the epoch as local time."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def bar(parts: Sequence[tuple[int, str]], *, whole: int, width: int) -> Any:
    """A bar of `width` cells, `whole` wide, with a stretch for each (amount, style)."""
    from rich.text import Text

    made = Text()
    done = amount_before = 0
    for amount, style in parts:
        amount_before += amount
        end = min(round(amount_before / whole * width), width) if whole > 0 else 0
        made.append("█" * (end - done), style=style)
        done = max(end, done)
    made.append("░" * (width - done), style="dim")
    return made


def _as_json(value: object) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)  # paths, sizes, dates


def print_line(text: str) -> None:
    """A line on standard error, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()

"""`embank search`: a question in words, the best documents, each with its best passage."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, cast

import typer

from embank.cli import output
from embank.cli.opening import open_collection
from embank.cli.options import CollectionName, Invocation, WhereFilter, on_bank, parsed_where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from embank.records import Hit
    from embank.search.settings import Mode

_PASSAGE_CHARS = 240
_LEAST_WORD = 3
"""Shorter words of a question are seldom what it is about, and would be marked everywhere."""


@on_bank
def search(
    invocation: Invocation,
    *,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The question, in quotes.")],
    collection: CollectionName = "default",
    k: Annotated[int, typer.Option("-k", metavar="N", help="How many documents.")] = 10,
    where: WhereFilter = None,
    mode: Annotated[
        str | None, typer.Option("--mode", metavar="MODE", help="hybrid (default), dense (meaning) or lexical (words).")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also where scores and passages come from.")] = False,
) -> None:
    """Find the documents that answer a question best.

    [bold]embank search "how do I restore a backup" -k 5[/bold]

    [bold]embank search "silt" -c rivers --where '{"year": {"$gte": 2020}}' --mode lexical[/bold]

    [bold]embank search evaluate[/bold] and [bold]embank search tune[/bold] measure the answers, and fit the weights of
    words and vectors, on questions of yours; for those words themselves: embank search -- tune
    """
    with open_collection(invocation, collection, "read", tells_loads=True) as opened:
        started_s = time.perf_counter()
        hits = opened.search(query, k=k, where=parsed_where(where), mode=cast("Mode | None", mode))
        seconds = time.perf_counter() - started_s
    if invocation.as_json:
        output.write_json(
            {
                "collection": collection,
                "query": query,
                "k": k,
                "seconds": seconds,
                "hits": [asdict(hit) for hit in hits],
            }
        )
    else:
        _show(hits, query, collection, seconds=seconds, explain=explain)


def _show(hits: Sequence[Hit], query: str, collection: str, *, seconds: float, explain: bool) -> None:
    if not hits:
        output.say(f"nothing found in {collection}")
        return
    parts = list(dict.fromkeys(name for hit in hits for name in hit.scores)) if explain else []
    numbers = ["score", *parts]
    columns = ["score", *parts, "document", "passage"] + (["where"] if explain else [])
    made = output.table(*columns, numbers=numbers)
    for hit in hits:
        cells: list[object] = [f"{hit.score:.3f}", *(f"{hit.scores.get(name, 0):.3f}" for name in parts), _name(hit)]
        cells.append(passage(hit.text, query, limit=_PASSAGE_CHARS))
        if explain:
            cells.append(f"passage {hit.chunk}, {hit.start}–{hit.end}")
        output.add_row(made, *cells)
    output.show(made)
    if explain:
        output.say(f"{output.counted(len(hits), 'hit')} in {output.duration(seconds)}, the model's loading included")
    if any(hit.degraded for hit in hits):
        output.say(
            "degraded: not everything was searched. Either the index of words is not up to date, or the vector index "
            "is missing and the documents that are read most stood in for it (hot.answers)"
        )


def _name(hit: Hit) -> Text:
    from rich.text import Text

    made = Text(output.plain(hit.id))
    title = hit.metadata.get("title")
    if isinstance(title, str) and title:
        made.append(f"\n{output.one_line(title, 60)}", style="dim")
    return made


def passage(text: str, query: str, *, limit: int) -> Text:
    """At most `limit` characters of a passage, beginning near the first word of the question, with its words marked."""
    from rich.text import Text

    words = [word for word in re.findall(r"\w+", query) if len(word) >= _LEAST_WORD]
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\w*", re.IGNORECASE) if words else None
    flat = " ".join(output.plain(text).split())
    found = pattern.search(flat) if pattern is not None else None
    start = 0
    if found is not None and found.end() > limit:
        start = max(flat.rfind(" ", 0, max(found.start() - limit // 4, 1)) + 1, 0)
    shown = flat[start : start + limit]
    if start + limit < len(flat):
        shown = shown[: limit - 1].rstrip() + "…"
    made = Text("…" + shown if start else shown)
    if pattern is not None:
        made.highlight_regex(pattern, style="bold")
    return made

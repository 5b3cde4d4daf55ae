"""`embank search` and `embank like`: a question in words or a document, the best others, each with its best passage."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from embank.cli import output
from embank.cli.opening import open_collection
from embank.cli.options import CollectionName, Invocation, WhereFilter, on_bank, parsed_where
from embank.errors import InvalidInput
from embank.records import MAX_DEPTH, Page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.text import Text

    from embank.records import Hit, Span
    from embank.search.query import Options
    from embank.search.settings import Mode

_PASSAGE_CHARS = 240

HowMany = Annotated[int, typer.Option("-k", metavar="N", help="How many documents.")]
ModeName = Annotated[
    str | None, typer.Option("--mode", metavar="MODE", help="hybrid (default), dense (meaning) or lexical (words).")
]
LeastScore = Annotated[
    float | None,
    typer.Option("--min-score", metavar="X", help="Only passages that score at least X."),
]
Neighbors = Annotated[
    int, typer.Option("--neighbors", metavar="N", help="Also N passages before and after each, of the same document.")
]
PerDocument = Annotated[
    int, typer.Option("--per-document", metavar="N", help="Up to N passages of one document; -k counts passages then.")
]
Diversity = Annotated[
    float, typer.Option("--diversity", metavar="X", help="0 to 1: how much likeness to better hits counts against one.")
]
After = Annotated[
    str | None,
    typer.Option("--after", metavar="CURSOR", help="The next page: `after` of the one before, as --json has it."),
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Also where scores and passages come from, and how long each step took.")
]


@on_bank
def search(
    invocation: Invocation,
    *,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="The question, in quotes.")] = None,
    like: Annotated[
        str | None, typer.Option("--like", metavar="ID", help="In place of a question: what is like this document.")
    ] = None,
    collection: CollectionName = "default",
    k: HowMany = 10,
    where: WhereFilter = None,
    mode: ModeName = None,
    min_score: LeastScore = None,
    neighbors: Neighbors = 0,
    per_document: PerDocument = 1,
    diversity: Diversity = 0.0,
    after: After = None,
    explain: Explain = False,
) -> None:
    """Find the documents that answer a question best.

    [bold]embank search "how do I restore a backup" -k 5[/bold]

    [bold]embank search "silt" -c rivers --where '{"year": {"$gte": 2020}}' --mode lexical[/bold]

    [bold]embank search evaluate[/bold] and [bold]embank search tune[/bold] measure the answers, and fit the weights of
    words and vectors, on questions of yours; for those words themselves: embank search -- tune
    """
    options: Options = {
        "min_score": min_score,
        "neighbors": neighbors,
        "per_document": per_document,
        "diversity": diversity,
        "explain": explain,
    }
    _answer(invocation, collection, query, like, k=k, where=where, mode=mode, after=after, options=options)


@on_bank
def like(
    invocation: Invocation,
    *,
    name: Annotated[str, typer.Argument(metavar="ID", help="The document's id.")],
    collection: CollectionName = "default",
    k: HowMany = 10,
    where: WhereFilter = None,
    mode: ModeName = None,
    min_score: LeastScore = None,
    after: After = None,
    explain: Explain = False,
) -> None:
    """Find the documents that are most like one of the collection; nothing is embedded for it.

    [bold]embank like plans/2024.md -k 5[/bold]
    """
    options: Options = {"min_score": min_score, "explain": explain}
    _answer(invocation, collection, None, name, k=k, where=where, mode=mode, after=after, options=options)


def _answer(
    invocation: Invocation,
    collection: str,
    query: str | None,
    like: str | None,
    *,
    k: int,
    where: str | None,
    mode: str | None,
    after: str | None,
    options: Options,
) -> None:
    if (query is None) == (like is None):
        raise InvalidInput("ask a question, or name a document with --like")
    asked: dict[str, Any] = {"k": k, "where": parsed_where(where), "mode": cast("Mode | None", mode)}
    with open_collection(invocation, collection, "read", tells_loads=True) as opened:
        started_s = time.perf_counter()
        more: dict[str, Any] = {**options, "highlight": True}
        if after is None and (options.get("per_document", 1) != 1 or k > MAX_DEPTH):
            hits = opened.search(query, **asked, **more) if like is None else opened.like(like, **asked, **more)
            page = Page(hits, None, dict(hits[0].explained or {}).get("search") if hits else None)
        else:
            page = opened.search_page(query, like=like, after=after, **asked, **more)
        seconds = time.perf_counter() - started_s
    if invocation.as_json:
        output.write_json(
            {
                "collection": collection,
                **({"query": query} if like is None else {"like": like}),
                "k": k,
                "seconds": seconds,
                "hits": [asdict(hit) for hit in page.hits],
                "after": page.after,
            }
        )
    else:
        _show(page, collection, seconds=seconds, explain=bool(options.get("explain")))


def _show(page: Page, collection: str, *, seconds: float, explain: bool) -> None:
    hits = page.hits
    if not hits:
        output.say(f"nothing found in {collection}")
    else:
        _show_hits(hits, explain=explain)
    if explain and page.explained is not None:
        output.say(*_steps(page.explained))
        output.say(f"{output.counted(len(hits), 'hit')} in {output.duration(seconds)}, the model's loading included")
    if any(hit.degraded for hit in hits):
        output.say(
            "degraded: not everything was searched. Either the index of words is not up to date, or the vector index "
            "is missing and the documents that are read most stood in for it (hot.answers)"
        )


def _show_hits(hits: Sequence[Hit], *, explain: bool) -> None:
    parts = list(dict.fromkeys(name for hit in hits for name in hit.scores)) if explain else []
    numbers = ["score", *parts]
    made = output.table("score", *parts, "document", "passage", *(["where"] if explain else []), numbers=numbers)
    for hit in hits:
        cells: list[object] = [f"{hit.score:.3f}", *(_part(hit, name) for name in parts), _name(hit)]
        cells.append(
            _with_neighbors(hit) if hit.before or hit.after else passage(hit.text, hit.highlights, limit=_PASSAGE_CHARS)
        )
        if explain:
            cells.append(f"passage {hit.chunk}, {hit.start}–{hit.end}")
        output.add_row(made, *cells)
    output.show(made)


def _part(hit: Hit, name: str) -> str:
    """A side's score, and its rank there."""
    side: Mapping[str, Any] = (hit.explained or {}).get(name) or {}
    rank = side.get("rank")
    return f"{hit.scores.get(name, 0):.3f} {'–' if rank is None else f'#{rank}'}"


def _steps(explained: Mapping[str, Any]) -> list[str]:
    """The search as a whole, a line for each thing."""
    index, found = explained["index"], explained["candidates"]
    lines = []
    if index is not None:
        tail = f", {index['tail_rows']:,} of them scanned, not in it yet" if index["tail_rows"] else ""
        lines.append(f"vectors: {index['index']}, {index['rows']:,} vectors{tail}")
    lines.append(
        f"candidates: {found['dense']:,} dense, {found['lexical']:,} lexical, {found['together']:,} together "
        f"(depth {found['depth']:,})"
    )
    if explained["filter"] is not None:
        lines.append(f"filter: leaves {explained['filter']['share']:.2%} of the passages{_filtering(explained)}")
    steps = ", ".join(f"{name} {took:.1f}" for name, took in explained["ms"].items())
    lines.append(f"milliseconds: {steps}{', from the cache' if explained['cached'] else ''}")
    return lines


_FILTERED = {
    "before": "scored all that it leaves",
    "within": "passed over the rest while searching",
    "after": "looked deeper, and took the rest out afterwards",
}


def _filtering(explained: Mapping[str, Any]) -> str:
    """What either side did about the filter."""
    sides = {"vectors": explained["filter"]["dense"], "words": explained["filter"]["lexical"]}
    return "".join(f"; {side} {_FILTERED[how]}" for side, how in sides.items() if how is not None)


def _name(hit: Hit) -> Text:
    from rich.text import Text

    made = Text(output.plain(hit.id))
    title = hit.metadata.get("title")
    if isinstance(title, str) and title:
        made.append(f"\n{output.one_line(title, 60)}", style="dim")
    return made


def _with_neighbors(hit: Hit) -> Text:
    """The whole passage, and around it, dimmed, what was asked for."""
    from rich.text import Text

    made = Text()
    made.append(f"{output.one_line(hit.before, len(hit.before))} " if hit.before else "", style="dim")
    made.append_text(passage(hit.text, hit.highlights, limit=len(hit.text)))
    made.append(f" {output.one_line(hit.after, len(hit.after))}" if hit.after else "", style="dim")
    return made


def passage(text: str, marked: Sequence[Span], *, limit: int) -> Text:
    """At most `limit` characters of a passage, beginning near the first word `marked` in it, these in bold."""
    from rich.text import Text

    flat, places = _flat(output.plain(text))
    spans = [(places[start], places[end - 1] + 1) for start, end in marked]
    begin = 0
    if spans and spans[0][1] > limit:
        begin = max(flat.rfind(" ", 0, max(spans[0][0] - limit // 4, 1)) + 1, 0)
    shown = flat[begin : begin + limit]
    if begin + limit < len(flat):
        shown = shown[: limit - 1].rstrip() + "…"
    made = Text("…" + shown if begin else shown)
    moved = 1 - begin if begin else 0
    for start, end in spans:
        made.stylize("bold", max(start + moved, 0), max(end + moved, 0))
    return made


def _flat(text: str) -> tuple[str, list[int]]:
    """The text with single blanks for whatever space is in it, none at its ends, and where each character went."""
    kept: list[str] = []
    places = []
    for character in text:
        if not character.isspace():
            places.append(len(kept))
            kept.append(character)
            continue
        if kept and kept[-1] != " ":
            kept.append(" ")
        places.append(len(kept))
    return "".join(kept).rstrip(), places

"""`embank search many`: the questions of a file, a line each, embedded together and answered one after another."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from embank.cli import output
from embank.cli.opening import open_collection
from embank.cli.options import CollectionName, Invocation, WhereFilter, on_bank, parsed_where
from embank.cli.search import HowMany, LeastScore, ModeName, PerDocument
from embank.errors import InvalidInput, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embank.records import Hit
    from embank.search.settings import Mode

MOST_QUESTIONS = 10_000
_TOGETHER = 64
"""Questions that are embedded and answered in one call, of one state of the collection."""

_PASSAGE_CHARS = 120


@on_bank
def many(
    invocation: Invocation,
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A question a line, UTF-8; - is standard input.")],
    collection: CollectionName = "default",
    k: HowMany = 10,
    where: WhereFilter = None,
    mode: ModeName = None,
    min_score: LeastScore = None,
    per_document: PerDocument = 1,
) -> None:
    """Answer many questions, in their order: much faster than a command for each. Empty lines are left out.

    [bold]embank search many questions.txt -k 3 --json[/bold]
    """
    questions = _read(file)
    condition = parsed_where(where)
    answers: list[tuple[str, Sequence[Hit]]] = []
    with open_collection(invocation, collection, "read", tells_loads=True) as opened:
        started_s = time.perf_counter()
        for first in range(0, len(questions), _TOGETHER):
            asked = questions[first : first + _TOGETHER]
            found = opened.search_many(
                asked,
                k=k,
                where=condition,
                mode=cast("Mode | None", mode),
                min_score=min_score,
                per_document=per_document,
            )
            answers += zip(asked, found, strict=True)
            if not invocation.as_json:
                _show(answers[first:])
        seconds = time.perf_counter() - started_s
    if invocation.as_json:
        listed = [{"query": query, "hits": [asdict(hit) for hit in hits]} for query, hits in answers]
        output.write_json({"collection": collection, "k": k, "seconds": seconds, "answers": listed})


def _read(file: str) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"the questions in {file} can't be read: {error}", path=file) from error
    questions = [line.strip() for line in lines if line.strip()]
    if not 1 <= len(questions) <= MOST_QUESTIONS:
        raise InvalidInput(
            f"{file} has {len(questions):,} questions: from 1 to {MOST_QUESTIONS:,} are answered at once"
        )
    return questions


def _show(answers: Iterable[tuple[str, Sequence[Hit]]]) -> None:
    for query, hits in answers:
        output.say(output.one_line(query, _PASSAGE_CHARS))
        for hit in hits:
            output.say(f"  {hit.score:.3f}  {output.one_line(hit.id, 60)}  {output.one_line(hit.text, _PASSAGE_CHARS)}")
        if not hits:
            output.say("  nothing found")

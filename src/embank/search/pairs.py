"""Questions with the documents that answer them, as a user has them: from Python, or from a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embank.errors import InvalidInput, SourceError

MAX_PAIRS = 100_000

Pairs = Iterable[tuple[str, str | Sequence[str]] | Mapping[str, Any]]
"""(question, id) or (question, ids), or mappings as a line of a file has them."""

_QUESTION, _IDS = ("question", "query"), ("ids", "id")
_EXAMPLE = '{"question": "how do I undo a commit", "id": "git/reset.md"}'


def read(file: str | Path) -> dict[str, frozenset[str]]:
    """The pairs of a file: an object a line with `question` (or `query`) and `id` or `ids`; blank lines are skipped.

    Raises `SourceError` for a file that can't be read and `InvalidInput` that names the line that is none.
    """
    found: list[tuple[str, Sequence[str]]] = []
    try:
        with Path(file).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(_pair(_decoded(line, number, file), f"{file}, line {number}"))
    except UnicodeDecodeError as error:
        raise SourceError(f"{file} is not UTF-8: {error}") from error
    except OSError as error:
        raise SourceError(f"{file} can't be read: {error.strerror or error}") from error
    return _together(found, str(file))


def given(pairs: Pairs) -> dict[str, frozenset[str]]:
    """The right ids of each question; `InvalidInput` names the pair that is none."""
    if isinstance(pairs, str | bytes | Mapping):
        raise InvalidInput(f"pairs must be a list of (question, id), not {type(pairs).__name__}")
    return _together((_pair(each, f"pairs[{number}]") for number, each in enumerate(pairs)), "pairs")


def _decoded(line: str, number: int, file: str | Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file}, line {number} is no JSON ({error}): a line is such as {_EXAMPLE}") from error


def _pair(pair: Any, place: str) -> tuple[str, Sequence[str]]:
    if isinstance(pair, Mapping):
        question = next((pair[key] for key in _QUESTION if key in pair), None)
        ids = next((pair[key] for key in _IDS if key in pair), None)
    elif isinstance(pair, list | tuple) and len(pair) == len(_QUESTION):
        question, ids = pair
    else:
        raise InvalidInput(f"{place}: {pair!r} is no pair: give (question, id), or an object such as {_EXAMPLE}")
    ids = [ids] if isinstance(ids, str) else ids
    if not isinstance(question, str) or not question.strip():
        raise InvalidInput(f"{place}: the question must be words, not {question!r}: an object is such as {_EXAMPLE}")
    if not isinstance(ids, list | tuple) or not ids or not all(isinstance(each, str) and each for each in ids):
        raise InvalidInput(f"{place}: id must be a document's id, or ids a list of them, not {ids!r}")
    return question, ids


def _together(pairs: Iterable[tuple[str, Sequence[str]]], place: str) -> dict[str, frozenset[str]]:
    """One entry a question: the same one asked twice must not stand on both sides of a split."""
    found: dict[str, frozenset[str]] = {}
    for count, (question, ids) in enumerate(pairs):
        if count >= MAX_PAIRS:
            raise InvalidInput(f"{place}: more than {MAX_PAIRS:,} pairs; a sample of them is enough")
        found[question] = found.get(question, frozenset()) | frozenset(ids)
    if not found:
        raise InvalidInput(f"{place}: there is no pair in it; a line is such as {_EXAMPLE}")
    return found

"""What is asked of a collection, checked before anything is read or embedded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, get_args

import numpy as np

from embank.errors import InvalidInput
from embank.registry import nearest
from embank.search.settings import Mode
from embank.store.index.protocol import Float32
from embank.store.metric import MOST_LENGTH

MAX_K = 10_000
MAX_QUERY_CHARACTERS = 1_000_000
MAX_NEIGHBORS = 100
MAX_PER_DOCUMENT = 100

_MODES: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}


class Options(TypedDict, total=False):
    """What else can be asked of every search, by keyword.

    `min_score`: only passages whose `Hit.score` is at least so much, before anything is reranked.

    `highlight`: mark the words of the question in each hit (`Hit.highlights`).

    `neighbors`: so many passages before and after each hit, of the same document (`Hit.before`, `Hit.after`).

    `explain`: say of each hit and of the search how it came about (`Hit.explained`).

    `per_document`: up to so many passages of one document; `k` counts passages then. By default one, its best.

    `diversity`, 0 to 1: how much a hit's likeness to those before it counts against it (maximal marginal relevance).

    `rerank`: whether the reranker, where the settings or `embank.open` name one, puts the best of the candidates in
    order; by default it does. Its score is then that of the hit, and the part `reranked` of `Hit.scores`.

    `dense_weight`, 0 (words alone) to 1 (vectors alone): how a hybrid search weighs its sides by scores, or by ranks
    where these are fused; in place of what the settings say and of what was fitted for the collection.
    """

    min_score: float | None
    highlight: bool
    neighbors: int
    explain: bool
    per_document: int
    diversity: float
    rerank: bool
    dense_weight: float | None


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, checked: words, or a vector, or both; or the id of a document that answers are to be `like`."""

    text: str | None
    vector: Float32 | None
    k: int
    mode: Mode
    where: Mapping[str, Any] | None
    like: str | None = None
    min_score: float | None = None
    highlight: bool = False
    neighbors: int = 0
    explain: bool = False
    per_document: int = 1
    diversity: float = 0.0
    rerank: bool = True
    dense_weight: float | None = None
    seen: frozenset[bytes] = frozenset()
    """Digests of the ids of documents that stood on the pages before."""

    def told(self) -> tuple[object, ...]:
        """All but the filter and the vector, as plain values in a fixed order."""
        return (
            self.text,
            self.k,
            self.mode,
            self.like,
            self.min_score,
            self.highlight,
            self.neighbors,
            self.explain,
            self.per_document,
            self.diversity,
            self.rerank,
            self.dense_weight,
            sorted(self.seen),
        )


def checked(
    text: object,
    *,
    vector: object = None,
    k: object = 10,
    mode: object,
    where: Mapping[str, Any] | None = None,
    like: object = None,
    options: Mapping[str, Any],
    seen: frozenset[bytes] = frozenset(),
) -> Query:
    """The query, or `InvalidInput` that names what is wrong with it."""
    chosen = _MODES.get(str(mode))
    if chosen is None:
        raise InvalidInput(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
    for name in options:
        if name not in Options.__annotations__:
            meant = nearest(name, Options.__annotations__)
            hint = f": did you mean {meant}?" if meant else f"; there are {', '.join(Options.__annotations__)}"
            raise InvalidInput(f"a search has no option {name!r}{hint}")
    words = None if text is None else _text(text)
    blank = words is None or not words.strip()
    if like is not None and not (isinstance(like, str) and like):
        raise InvalidInput(f"the id of a document must be a string that is not empty, not {like!r}")
    if vector is None and blank and like is None:
        raise InvalidInput("the query is empty: ask for something")
    return Query(
        words,
        None if vector is None else _finite_vector(vector),
        _whole("k", k, least=1, most=MAX_K),
        "dense" if blank and like is None else chosen,
        where,
        like=like,
        min_score=_number("min_score", options.get("min_score")),
        highlight=_switch("highlight", options.get("highlight", False)),
        neighbors=_whole("neighbors", options.get("neighbors", 0), least=0, most=MAX_NEIGHBORS),
        explain=_switch("explain", options.get("explain", False)),
        per_document=_whole("per_document", options.get("per_document", 1), least=1, most=MAX_PER_DOCUMENT),
        diversity=_share("diversity", options.get("diversity", 0.0)),
        rerank=_switch("rerank", options.get("rerank", True)),
        dense_weight=None if options.get("dense_weight") is None else _share("dense_weight", options["dense_weight"]),
        seen=seen,
    )


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"a query must be a string, not {type(text).__name__}")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise InvalidInput(f"a query has at most {MAX_QUERY_CHARACTERS:,} characters, not {len(text):,}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the query holds a lone surrogate at {error.start}: it is not valid Unicode") from error
    return text


def _whole(name: str, value: object, *, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInput(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return value


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating):
        raise InvalidInput(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError as error:
        raise InvalidInput(f"{name} is beyond the numbers that a search reckons with") from error
    if math.isnan(number):
        raise InvalidInput(f"{name} must be a number, not {value!r}")
    return number


def _share(name: str, value: object) -> float:
    number = _number(name, value)
    if number is None or not 0 <= number <= 1:
        raise InvalidInput(f"{name} must be a number from 0 to 1, not {value!r}")
    return number


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be True or False, not {value!r}")
    return value


def _finite_vector(vector: object) -> Float32:
    """A caller's vector as float32; `InvalidInput` when it is no finite row of numbers."""
    try:
        row = np.asarray(vector, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"a query vector must be a row of numbers: {error}") from error
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(row)) if row.ndim == 1 and row.size else math.nan
    if not length <= MOST_LENGTH:
        raise InvalidInput(
            f"a query vector must be one row of finite numbers, not longer than {MOST_LENGTH:g} (shape {row.shape})"
        )
    return row

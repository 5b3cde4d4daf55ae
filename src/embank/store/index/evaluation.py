"""Every kind of index side by side on a sample of a collection: size, recall, time to add, time to search.

A thousand vectors are compared, as people do, unless more are asked for. They are too few to train a quantiser on, so
that it is trained on a larger sample of the collection; where the whole of it is too small, the kind is refused with
the figure. What every kind holds in memory is compared: the vectors themselves stay on the disk, mapped, for all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embank.errors import InvalidInput
from embank.memory.governor import Governor
from embank.memory.priority import bulk_work
from embank.store.index import building, faiss
from embank.store.index.methods import CENTROID_POINTS, KINDS, Method
from embank.store.index.planner import Questions, lower_bound
from embank.store.index.protocol import Codes, Float32, Mask, Slots
from embank.store.index.settings import Settings
from embank.store.metric import scores
from embank.store.vectors import Rows

ROWS = 1_000
MOST_ROWS = 50_000
LEAST_ROWS = 100

_K = 10
_TURNS = 5
_TIMED = 100
_ALIKE = 1e-5
"""Of the best score: texts repeat, and what scores as well as the tenth is as good."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind. `recall` is recall@10 after rescoring, `codes_recall` that of the codes alone; `loss` against exact.

    `saved`: the share of flat's memory that it does without. `train_s`, `add_s`: for the whole sample; `search_s`: one
    search, the median of several turns.
    """

    kind: str
    method: str
    bytes: int
    saved: float
    recall: float
    recall_low: float
    loss: float
    codes_recall: float
    trained_rows: int
    train_s: float
    add_s: float
    search_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured on `rows` vectors of `of_rows`. `refused`: kinds that could not be, and why."""

    rows: int
    of_rows: int
    dimension: int
    metric: str
    questions: int
    asked: str
    exact_s: float
    measured: tuple[Measured, ...]
    refused: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Evaluator:
    """Compares the kinds that there are. `going` is asked between steps; `Interrupted` where it says no."""

    def __init__(
        self,
        settings: Settings,
        *,
        going: Callable[[], bool],
        governor: Governor | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._settings = settings
        self._going = going
        self._governor = governor
        self._random = np.random.default_rng(seed)
        self._clock = clock

    def compare(self, rows: Rows, dead: Mask | None, questions: Questions, *, count: int = ROWS) -> Comparison:
        """Measure every kind on `count` of the live vectors, or all where there are fewer.

        Raises `InvalidInput` for too few or too many, `BudgetExceeded`, and `MissingExtra` without FAISS.
        """
        faiss.require()
        living = np.arange(len(rows)) if dead is None else np.flatnonzero(~dead[: len(rows)])
        if not LEAST_ROWS <= count <= MOST_ROWS:
            raise InvalidInput(f"compare {LEAST_ROWS:,} to {MOST_ROWS:,} vectors, not {count:,}", rows=count)
        if len(living) < LEAST_ROWS:
            raise InvalidInput(
                f"{len(living):,} vectors are too few to tell kinds of index apart: {LEAST_ROWS:,} or more are needed",
                rows=len(living),
            )
        shuffled = self._random.permutation(living)
        chosen = np.sort(shuffled[:count])
        methods = [self._method(kind, rows, len(living), len(chosen)) for kind in KINDS]
        held = sum(2 * each.held_bytes(len(chosen)) for each in methods) + 4 * rows.codec.dimension * len(chosen)
        training = max(building.training_bytes(each, min(each.wanted_rows, len(living))) for each in methods)
        with bulk_work(), faiss.bounded_threads(self._settings.threads):
            if self._governor is None:
                return self._compare(rows, shuffled, chosen, methods, questions)
            with self._governor.reserve("comparing kinds of index", held + training):
                return self._compare(rows, shuffled, chosen, methods, questions)

    def _compare(
        self, rows: Rows, shuffled: Slots, chosen: Slots, methods: list[Method], questions: Questions
    ) -> Comparison:
        vectors, asked = rows.gather(chosen), questions.vectors
        truth = [np.sort(scores(rows.metric, vectors, query))[::-1][:_K] for query in asked]
        ways: dict[str, Callable[[Float32], npt.NDArray[np.int64]]] = {
            "exact": lambda query: np.argsort(-scores(rows.metric, rows.gather(chosen), query))[:_K]
        }
        built: list[tuple[Method, Codes, int, float, float]] = []
        refused: dict[str, str] = {}
        for method in methods:
            self._check()
            try:
                codes, trained, train_s = self._trained(method, rows, shuffled)
            except InvalidInput as error:
                refused[method.kind] = str(error)
                continue
            started = self._clock()
            codes.add(vectors)
            built.append((method, codes, trained, train_s, self._clock() - started))
            ways[method.kind] = _way(rows, chosen, codes, method.rescored)
        seconds = self._timed(ways, asked[:_TIMED])
        flat_bytes = next(method for method in methods if method.kind == "flat").held_bytes(len(chosen))
        measured = []
        for method, codes, trained, train_s, add_s in built:
            found = _recalls(rows, vectors, asked, truth, ways[method.kind])
            alone = _recalls(rows, vectors, asked, truth, _way(rows, chosen, codes, 0))
            measured.append(
                Measured(
                    kind=method.kind,
                    method=method.name,
                    bytes=codes.used_bytes(),
                    saved=1 - codes.used_bytes() / flat_bytes,
                    recall=float(found.mean()),
                    recall_low=max(lower_bound(found), 0.0),
                    loss=1 - float(found.mean()),
                    codes_recall=float(alone.mean()),
                    trained_rows=trained,
                    train_s=train_s,
                    add_s=add_s,
                    search_s=seconds[method.kind],
                )
            )
        return Comparison(
            rows=len(chosen),
            of_rows=len(shuffled),
            dimension=rows.codec.dimension,
            metric=rows.metric,
            questions=len(asked),
            asked=questions.asked,
            exact_s=seconds["exact"],
            measured=tuple(measured),
            refused=refused,
        )

    def _method(self, kind: str, rows: Rows, living: int, count: int) -> Method:
        """Of that kind; a product quantiser gets as many bits as there are vectors to train them with."""
        settings = self._settings
        if kind == "pq" and settings.bits is None:
            bits = next((bits for bits in range(8, 4, -1) if CENTROID_POINTS << bits <= living), 4)
            settings = settings.model_copy(update={"bits": bits})
        return settings.method(kind, rows.codec.dimension, count, metric=rows.metric)

    def _trained(self, method: Method, rows: Rows, shuffled: Slots) -> tuple[Codes, int, float]:
        method.check_rows(len(shuffled))
        sample = rows.gather(np.sort(shuffled[: 1 if method.kind == "flat" else method.wanted_rows]))
        started = self._clock()
        codes = faiss.train(method, sample)
        return codes, 0 if method.kind == "flat" else len(sample), self._clock() - started

    def _timed(self, ways: dict[str, Callable[[Float32], Any]], asked: Float32) -> dict[str, float]:
        """Seconds a search, the median of turns that are taken one after the other."""
        turns: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_TURNS):
            for name, way in ways.items():
                self._check()
                started = self._clock()
                for query in asked:
                    way(query)
                turns[name].append((self._clock() - started) / len(asked))
        return {name: statistics.median(each) for name, each in turns.items()}

    def _check(self) -> None:
        if not self._going():
            raise building.Interrupted


def _way(rows: Rows, chosen: Slots, codes: Codes, rescored: int) -> Callable[[Float32], npt.NDArray[np.int64]]:
    """A search for 10 with codes: places within `chosen`, best first. `rescored` 0 takes the codes' own order."""
    if not rescored:
        return lambda query: codes.candidates(query, _K)
    return lambda query: _best(rows, chosen, codes.candidates(query, rescored), query)


def _best(rows: Rows, chosen: Slots, places: Slots, query: Float32) -> Slots:
    found: Slots = places[np.argsort(-scores(rows.metric, rows.pick(chosen[places]), query), kind="stable")[:_K]]
    return found


def _recalls(
    rows: Rows,
    vectors: Float32,
    asked: Float32,
    truth: list[Float32],
    way: Callable[[Float32], npt.NDArray[np.int64]],
) -> npt.NDArray[np.float64]:
    """Of each question."""
    found = []
    for query, best in zip(asked, truth, strict=True):
        mine = scores(rows.metric, vectors[way(query)], query)
        least = best[-1] - _ALIKE * max(float(np.abs(best).max()), 1e-30)
        found.append(float((mine >= least).sum()) / len(best))
    return np.asarray(found)

"""Which index a collection gets: measured on its own vectors, with questions as people ask them.

Ways are tried on two nested samples. Recall falls with size, since more vectors that are none of the nearest stand
among the candidates before those that are: by how much these moved back from the small sample to the large one is
carried on to the whole collection (`carried_on`). Every way is searched once, as deep as any is rescored, which tells
the recall at every depth. Chosen is the one that takes the least memory of those whose lower bound meets the target;
among those of about the same memory, the fastest, or in collections that are not large the one that finds most of those
half as fast or faster.

Graphs and lists are tried in large collections only: where questions are short and documents long, scanning
compressed codes and rescoring wins over both until there are several hundred thousand vectors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embank.memory.governor import Governor
from embank.memory.priority import bulk_work
from embank.store.index import building, faiss
from embank.store.index.faiss import FaissCodes
from embank.store.index.methods import LEAST_TRAINING_ROWS, Method
from embank.store.index.nearest import nearest, working_bytes
from embank.store.index.protocol import Float32, Mask, Slots
from embank.store.index.settings import Settings
from embank.store.metric import Metric
from embank.store.vectors import Rows

SAMPLE_ROWS = 49_152
_NESTING = 4
QUESTIONS = 400
_TIMED = 50
_K = 10
DEPTHS = (50, 100, 200, 300, 400, 600, 800)
_LARGE_ROWS = 200_000

LEAST_ROWS = _NESTING * LEAST_TRAINING_ROWS
"""With fewer vectors there is nothing that could be trained on the smaller sample."""

_Z95 = 1.96
_LAST = (0.95, 0.98, 0.99)
"""Which of the nearest tell how far all move back: those that decide how many candidates are needed."""
_ALIKE = 1.25
"""Ways whose memory differs by less are told apart by their speed."""
_SLOWER = 2.0
"""The vectors of a collection that is not large stay in the page cache: to rescore more of them costs little, and the
target is kept by questions other than those that were tried, too. Of large ones each may be a page from the disk."""


@dataclass(frozen=True, slots=True)
class Questions:
    """`vectors`: float32, for cosine normalised, shape (n, dimension). `asked` says what they are."""

    vectors: Float32
    asked: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One way as measured, carried on to the whole collection. Recall is recall@10 after rescoring.

    `sample_recall`: as measured on the larger sample. `query_s`: one search there; `bytes`: what it would hold.
    """

    method: Method
    recall: float
    recall_low: float
    sample_recall: float
    query_s: float
    build_s: float
    bytes: int
    fits: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What was measured and what follows. `chosen` is `None` where the vectors are to be scanned."""

    rows: int
    sample_rows: int
    questions: int
    asked: str
    recall_target: float
    limit_bytes: int
    trials: tuple[Trial, ...]
    chosen: Method | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """What `as_dict` gave. Raises `ValueError` for anything else."""
        try:
            trials = tuple(Trial(**{**each, "method": Method(**each["method"])}) for each in values["trials"])
            chosen = None if values["chosen"] is None else Method(**values["chosen"])
            return cls(**{**values, "trials": trials, "chosen": chosen})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it is no plan: {error}") from error


class Planner:
    """Measures the ways that there are. `going` is asked between steps; `Interrupted` where it says no.

    Its memory is that of the codes of a sample, twice, since FAISS's arrays double as they grow, and of what they are
    trained on. The sample is as large as what the governor grants of that allows.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        limit_bytes: int,
        going: Callable[[], bool],
        governor: Governor | None = None,
        seed: int = 0,
    ) -> None:
        self._settings = settings
        self._governor = governor
        self._limit_bytes = limit_bytes
        self._going = going
        self._random = np.random.default_rng(seed)

    def plan(self, rows: Rows, dead: Mask | None, questions: Questions) -> Plan:
        """Try everything on samples of the live vectors. Raises `BudgetExceeded` where not even small ones fit."""
        living = np.arange(len(rows)) if dead is None else np.flatnonzero(~dead[: len(rows)])
        most = min(len(living), SAMPLE_ROWS)
        with faiss.bounded_threads(self._settings.threads):
            if self._governor is None:
                return self._plan(rows, living, most, questions)
            least = min(most, LEAST_ROWS)
            wanted_bytes, least_bytes = (self._working_bytes(rows, count, questions) for count in (most, least))
            with (
                bulk_work(),
                self._governor.reserve("planning a vector index", wanted_bytes, least_bytes=least_bytes) as granted,
            ):
                part = (granted.granted_bytes - least_bytes) / max(wanted_bytes - least_bytes, 1)
                return self._plan(rows, living, least + int(part * (most - least)), questions)

    def _working_bytes(self, rows: Rows, sample: int, questions: Questions) -> int:
        """What trying everything on so many vectors takes at most."""
        dimension = rows.codec.dimension
        tried = (
            building.training_bytes(base, min(base.wanted_rows, sample)) + 2 * base.held_bytes(sample)
            for base in self._candidates(dimension, len(rows), rows.metric)
        )
        return max(tried) + working_bytes(len(questions.vectors), dimension)

    def _plan(self, rows: Rows, living: Slots, count: int, questions: Questions) -> Plan:
        shuffled = self._random.permutation(living)[:count]
        large, small = np.sort(shuffled), np.sort(shuffled[: len(shuffled) // _NESTING])
        nearest = {len(slots): self._nearest(rows, slots, questions.vectors) for slots in (small, large)}
        trials = []
        for base in self._candidates(rows.codec.dimension, len(rows), rows.metric):
            if len(small) < base.least_rows:
                continue
            trials += self._try(base, rows, (small, large), nearest, questions.vectors)
        chosen, reason = choose(
            trials,
            target=self._settings.recall_target,
            limit_bytes=self._limit_bytes,
            deeper=len(rows) < _LARGE_ROWS,
        )
        return Plan(
            rows=len(rows),
            sample_rows=len(large),
            questions=len(questions.vectors),
            asked=questions.asked,
            recall_target=self._settings.recall_target,
            limit_bytes=self._limit_bytes,
            trials=tuple(trials),
            chosen=chosen,
            reason=reason,
        )

    def _candidates(self, dimension: int, rows: int, metric: Metric) -> Iterator[Method]:
        kinds = ["pq-fastscan", "rabitq", "sq8"] + (["ivf", "hnsw"] if rows >= _LARGE_ROWS else [])
        for kind in kinds:
            trained = min(rows, SAMPLE_ROWS // _NESTING) if kind == "ivf" else rows
            yield self._settings.method(kind, dimension, trained, metric=metric)
        if self._settings.parts is None and dimension % 2 == 0:  # twice the codes, and less to rescore
            wide = self._settings.model_copy(update={"parts": dimension // 2})
            yield wide.method("pq-fastscan", dimension, rows, metric=metric)

    def _try(
        self,
        base: Method,
        rows: Rows,
        samples: tuple[Slots, Slots],
        nearest: dict[int, Slots],
        questions: Float32,
    ) -> list[Trial]:
        """The way at every depth."""
        depths = [base.rescored] if self._settings.rescored else [d for d in DEPTHS if d <= len(samples[0]) // 4]
        small, large = samples
        # The codes of the smaller sample are gone before those of the larger are made.
        before = self._ranked(base, rows, small, zip(questions, nearest[len(small)], strict=True), max(depths))[0]
        known = zip(questions, nearest[len(large)], strict=True)
        after, codes, seconds = self._ranked(base, rows, large, known, max(depths))
        growth = math.log(max(len(rows) / len(large), 1)) / math.log(len(large) / len(small))
        moved, loss = carried_on(before, after, growth, missing=max(depths))
        held = base.held_bytes(len(rows))
        trials = []
        for depth in depths:
            whole = (moved < depth).mean(axis=1)
            trials.append(
                Trial(
                    method=_at(base, depth),
                    recall=max(float(whole.mean()) - loss, 0.0),
                    recall_low=max(lower_bound(whole) - loss, 0.0),
                    sample_recall=float((after < depth).mean()),
                    query_s=self._timed(codes, rows, large, questions[:_TIMED], depth),
                    build_s=seconds * len(rows) / len(large),
                    bytes=held,
                    fits=held <= self._limit_bytes,
                )
            )
        return trials

    def _ranked(
        self, base: Method, rows: Rows, slots: Slots, known: Iterable[tuple[Float32, Slots]], depth: int
    ) -> tuple[npt.NDArray[np.int64], FaissCodes, float]:
        """Where the nearest of each question stand among so many candidates, the codes, and the seconds they took."""
        started = time.perf_counter()
        codes = self._built(base, rows, slots)
        seconds = time.perf_counter() - started
        return np.stack([_ranks(codes, query, best, depth) for query, best in known]), codes, seconds

    def _built(self, method: Method, rows: Rows, slots: Slots) -> FaissCodes:
        self._check()
        training = slots[:: max(len(slots) // method.wanted_rows, 1)]
        codes = faiss.train(method, rows.gather(training if len(training) >= method.least_rows else slots))
        for first in range(0, len(slots), building.BLOCK_ROWS):
            self._check()
            codes.add(rows.gather(slots[first : first + building.BLOCK_ROWS]))
        return codes

    def _nearest(self, rows: Rows, slots: Slots, questions: Float32) -> Slots:
        """Places within `slots` of the nearest 10 of each question."""
        return nearest(rows, slots, questions, _K, check=self._check)[0]

    def _timed(self, codes: FaissCodes, rows: Rows, slots: Slots, questions: Float32, depth: int) -> float:
        started = time.perf_counter()
        for query in questions:
            rows.scores(slots[codes.candidates(query, depth)], query)
        return (time.perf_counter() - started) / len(questions)

    def _check(self) -> None:
        if not self._going():
            raise building.Interrupted


def choose(trials: list[Trial], *, target: float, limit_bytes: int, deeper: bool = False) -> tuple[Method | None, str]:
    """The cheapest that meets the target within the budget, and why; the best there is where none does.

    `deeper`: of those that are not twice as slow as the fastest, the one that finds most.
    """
    fitting = [trial for trial in trials if trial.fits]
    good = [trial for trial in fitting if trial.recall_low >= target]
    if good:
        least = min(trial.bytes for trial in good)
        alike = [trial for trial in good if trial.bytes <= _ALIKE * least]
        best = min(alike, key=lambda trial: trial.query_s)
        told = f"the least memory, then the fastest, with recall of {target:.3f} or more"
        if deeper:
            best = max(
                (trial for trial in alike if trial.query_s <= _SLOWER * best.query_s),
                key=lambda trial: (trial.recall_low, -trial.query_s),
            )
            told += f"; then the most recall for at most {_SLOWER:g} times the time"
        return best.method, told
    would = min((trial for trial in trials if trial.recall_low >= target), key=lambda trial: trial.bytes, default=None)
    way_out = (
        "index.kind = exact reaches it"
        if would is None
        else f"{would.method.name} would reach it with index.budget = {would.bytes / 1e6:,.0f}MB"
    )
    if not fitting:
        return None, f"nothing that was tried fits into {limit_bytes / 1e6:,.1f} MB; {way_out}"
    best = max(fitting, key=lambda trial: trial.recall_low)
    return best.method, f"none within the budget reaches recall of {target:.3f}, this one comes nearest; {way_out}"


def carried_on(
    small: npt.NDArray[np.int64], large: npt.NDArray[np.int64], growth: float, *, missing: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Where the nearest would stand among the candidates of the whole collection, and the recall lost besides.

    `small` and `large`: where they stood in the samples, `missing` where they did not. `growth`: how many times the
    step from the one to the other leads, by the logarithm of the size, to the whole. Every place moves back by the
    factor by which those of the last twentieth did; what is in no list that is looked into is lost, as much with every
    step. Of a million of MiniLM's this says 99.3 % with 400 rescored, which it is; the loss of recall alone, carried on
    in a line, says 99.6.
    """
    factors = [1.0]
    if (small < missing).any() and (large < missing).any():
        last_small, last_large = (np.quantile(ranks[ranks < missing] + 1, _LAST) for ranks in (small, large))
        factors.append(float(np.exp(np.log(last_large / last_small).mean())))
    moved = np.where(large < missing, (large + 1) * max(factors) ** growth - 1, np.inf)
    lost = float((large == missing).mean() - (small == missing).mean())
    return moved, max(lost, 0.0) * growth


def lower_bound(recalls: npt.NDArray[np.float64]) -> float:
    """Of the mean of what each question found, with 95 % confidence; never that of a sure thing."""
    spread = float(recalls.std(ddof=1)) / math.sqrt(len(recalls)) if len(recalls) > 1 else 1.0
    # With no miss among n questions the rate of misses may still be 3/n (of one answer in ten each).
    return float(recalls.mean()) - max(_Z95 * spread, 3 / len(recalls) / _K)


def mixtures(
    rows: Rows, living: Slots, count: int = QUESTIONS, *, of: int = 3, weight: float = 1.0, seed: int = 0
) -> Questions:
    """Questions for vectors without texts and model: something between `of` of them, near none.

    One of them counts fully, the others by `weight`. Over a million of MiniLM's, with PQ codes of four bits and 200,
    300 and 400 rescored, 98.5, 99.3 and 99.5 % of the nearest of single words are found, 97.7, 98.8 and 99.3 of those
    of mixtures of three, 99.6, 99.9 and 99.9 where the others weigh 0.7: with these too few candidates seemed to do.
    """
    random = np.random.default_rng(seed)
    one, *others = (rows.gather(random.choice(living, min(count, len(living)), replace=False)) for _ in range(of))
    mixed = one + np.float32(weight) * sum(others)
    if rows.metric == "cosine":
        lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        mixed /= lengths
    else:
        mixed /= np.float32(1 + weight * len(others))
    return Questions(mixed, f"{len(mixed):,} mixtures of {of} vectors each (there is no model to ask with)")


def _ranks(codes: FaissCodes, query: Float32, best: Slots, depth: int) -> npt.NDArray[np.int64]:
    """At which place each of `best` stands among the candidates; `depth` where it is missing."""
    candidates = codes.candidates(query, depth)
    place = np.full(codes.rows, depth, np.int64)
    place[candidates] = np.arange(len(candidates))
    return place[best]


def _at(base: Method, depth: int) -> Method:
    return Method(**{**base.as_dict(), "rescored": depth})

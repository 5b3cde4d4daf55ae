"""How well a collection's searches find what a user knows to be right, and the weights that find more of it.

Fitting tries a fixed list of fusions on every question. In turn each fifth of the questions is held out: the fusion
that is best on the others is scored on it, so that what is reported as "after" was never fitted on the question it is
of. Weights are kept only where the gain's whole 95 % interval (paired bootstrap over the questions) is above 0; those
that are kept are fitted on all questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from embank.errors import InvalidInput
from embank.search.measures import Estimate, Values, names, table
from embank.search.settings import Mode
from embank.search.weights import Fusion

LEAST_QUESTIONS = 20
"""With fewer, an interval of the bootstrap says nothing."""

FOLDS = 5
MAX_K = 100

_MARGIN = 1e-9
_COVERAGES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0, 8.0, 12.0, 16.0, 24.0)
_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_RANK_WEIGHTS = (0.3, 0.5, 0.7)

Way = Mode | Fusion
"""A mode, or a hybrid search fused as said."""

Rank = Callable[[str, Sequence[Way], int], list[list[str]]]
"""The ids that each way finds for a question, best first, at most so many."""

OnTuneProgress = Callable[[float, str], None]
"""Called after every question with how much is done, 0 to 1, and words."""


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """Measures by way of searching and by name. `missing` of the right documents are not in the collection.

    `questions` are those that could be judged; `left_out` have no right document that is there.
    """

    collection: str
    k: int
    questions: int
    left_out: int
    missing: int
    fusion: dict[str, Any]
    tuned: bool
    ways: dict[str, dict[str, Estimate]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What tuning found. `outcome`: "kept", "would be kept" (a dry run) or "no gain": then all is as it was.

    `before` are the measures of what was in use; `after` those of weights fitted on other questions than the ones they
    are of, and `gain` the paired difference. `fusion` was fitted on all of them.
    """

    collection: str
    outcome: str
    k: int
    questions: int
    left_out: int
    missing: int
    folds: int
    used: dict[str, Any]
    fusion: dict[str, Any]
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    gain: dict[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def choices(used: Fusion) -> list[Fusion]:
    """What is tried, with what is in use first: it wins ties."""
    tried = [used, Fusion()]
    tried += [Fusion("coverage", coverage=coverage) for coverage in _COVERAGES]
    tried += [Fusion(dense_weight=weight) for weight in _WEIGHTS]
    tried += [Fusion("ranks", weight) for weight in _RANK_WEIGHTS]
    return list(dict.fromkeys(tried))


def evaluate(
    questions: Mapping[str, frozenset[str]],
    rank: Rank,
    report: EvaluateReport,
    *,
    ways: Mapping[str, Way],
    on_progress: OnTuneProgress | None = None,
) -> EvaluateReport:
    """The report with the measures of `ways`, by their names."""
    rankings = _rankings(questions, rank, list(ways.values()), report.k, on_progress)
    right = list(questions.values())
    judged = zip(ways, rankings, strict=True)
    found = {name: _estimates(table(ranking, right, report.k)) for name, ranking in judged}
    return replace(report, questions=len(questions), ways=found)


def tune(
    questions: Mapping[str, frozenset[str]],
    rank: Rank,
    *,
    used: Fusion,
    k: int,
    seed: int = 0,
    on_progress: OnTuneProgress | None = None,
) -> tuple[Fusion, dict[str, dict[str, Estimate]], int]:
    """The best fusion on all questions; measures `before`, `after` and the `gain`; and the number of folds.

    Raises `InvalidInput` for fewer than `LEAST_QUESTIONS`.
    """
    if len(questions) < LEAST_QUESTIONS:
        raise InvalidInput(
            f"{len(questions)} questions with documents that are in the collection are too few to fit weights on: give "
            f"{LEAST_QUESTIONS} at least, better hundreds",
            questions=len(questions),
        )
    tried, right = choices(used), list(questions.values())
    rankings = _rankings(questions, rank, tried, k, on_progress)
    judged = [table(each, right, k) for each in rankings]
    goal = names(k)[-2]
    scores = np.stack([each[goal] for each in judged])
    fold = np.random.default_rng(seed).permutation(len(right)) % FOLDS
    after = {name: np.empty(len(right)) for name in judged[0]}
    for held in range(FOLDS):
        chosen = _best(scores[:, fold != held])
        for name, values in after.items():
            values[fold == held] = judged[chosen][name][fold == held]
    gain = {name: values - judged[0][name] for name, values in after.items()}
    parts = {"before": judged[0], "after": after, "gain": gain}
    return tried[_best(scores)], {name: _estimates(values) for name, values in parts.items()}, FOLDS


def _best(scores: Values) -> int:
    """The first of the best rows of shape (tried, questions)."""
    means = scores.mean(axis=1)
    return int(np.flatnonzero(means >= means.max() - _MARGIN)[0])


def helps(gain: Mapping[str, Estimate], k: int) -> bool:
    """Whether the gain is more than chance."""
    return gain[names(k)[-2]].low > 0


def _estimates(measured: Mapping[str, Values]) -> dict[str, Estimate]:
    return {name: Estimate.of(values) for name, values in measured.items()}


def _rankings(
    questions: Mapping[str, frozenset[str]],
    rank: Rank,
    ways: Sequence[Way],
    k: int,
    on_progress: OnTuneProgress | None,
) -> list[list[list[str]]]:
    """For each way the ranking of each question."""
    found: list[list[list[str]]] = [[] for _ in ways]
    for count, question in enumerate(questions, 1):
        for each, ranking in zip(found, rank(question, ways, k), strict=True):
            each.append(ranking)
        if on_progress is not None:
            on_progress(count / len(questions), f"{count:,} of {len(questions):,} questions asked")
    return found

"""How well a collection is searched by what its user knows to be right, and weights that were fitted on that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embank.engine import Engine
from embank.errors import CollectionNotFound, InvalidInput
from embank.search import pairs as asked
from embank.search.pairs import Pairs
from embank.search.settings import Mode
from embank.search.tuning import MAX_K, EvaluateReport, OnTuneProgress, TuneReport, evaluate, helps, tune
from embank.store.collection import StoredCollection
from embank.store.protocol import CollectionInfo
from embank.store.tunings import Tuning

_MODES: dict[str, Mode] = {"dense": "dense", "lexical": "lexical", "hybrid": "hybrid"}


class Tunable:
    """A collection of an open bank, as far as its searches are judged and tuned. Thread-safe."""

    def __init__(self, engine: Engine, stored: StoredCollection) -> None:
        self._engine = engine
        self._stored = stored

    def evaluate(
        self, pairs: str | Path | Pairs, *, k: int = 10, on_progress: OnTuneProgress | None = None
    ) -> EvaluateReport:
        """Recall, MRR and nDCG of dense, lexical and hybrid search, with 95 % intervals, by questions and right ids.

        `pairs` are (question, id) or (question, ids), or a file of JSON lines with `question` and `id` or `ids`. Raises
        `CollectionNotFound`, `InvalidInput` that names the pair, `SourceError`, and what a search raises.
        """
        info, questions, left_out, missing = self._judged(pairs, k)
        searcher = self._engine.searcher(self._stored)
        report = EvaluateReport(
            collection=info.name,
            k=k,
            questions=0,
            left_out=left_out,
            missing=missing,
            fusion=searcher.fusion(info).as_dict(),
            tuned=self._engine.tunings.of(info) is not None,
            ways={},
        )
        return evaluate(questions, searcher.rank, report, ways=_MODES, on_progress=on_progress)

    def tune(
        self,
        pairs: str | Path | Pairs,
        *,
        k: int = 10,
        dry_run: bool = False,
        seed: int = 0,
        on_progress: OnTuneProgress | None = None,
    ) -> TuneReport:
        """Fit how its hybrid searches weigh words and vectors, on questions and right ids; keep what really helps.

        `pairs` as for `evaluate`, 20 questions at least. The report has what was in use and what was fitted, measured
        by cross-validation; weights are kept (durably, on record, and used from then on) only where the whole 95 %
        interval of the gain of MRR is above 0, and never with `dry_run`. They hold for the vectors that they were
        fitted on: after a `reembed` with another model the settings are gone by again. Raises as `evaluate` does, and
        `BankReadOnly`.
        """
        info, questions, left_out, missing = self._judged(pairs, k)
        searcher = self._engine.searcher(self._stored)
        used = searcher.fusion(info)
        fusion, found, folds = tune(questions, searcher.rank, used=used, k=k, seed=seed, on_progress=on_progress)
        better = fusion != used and helps(found["gain"], k)
        outcome = ("would be kept" if dry_run else "kept") if better else "no gain"
        report = TuneReport(
            collection=info.name,
            outcome=outcome,
            k=k,
            questions=len(questions),
            left_out=left_out,
            missing=missing,
            folds=folds,
            used=used.as_dict(),
            fusion=(fusion if better else used).as_dict(),
            before=found["before"],
            after=found["after"],
            gain=found["gain"],
        )
        if outcome == "kept":
            self._engine.tunings.keep(info.name, Tuning(info.fingerprint or "", report.fusion, _facts(report)))
        return report

    def tuning(self) -> Tuning | None:
        """What its searches were tuned to and what was measured then; `None` where they go by the settings."""
        info = self._stored.info()
        return None if info is None else self._engine.tunings.of(info)

    def untune(self) -> Tuning | None:
        """Go by the settings again, on record; what was kept, or `None`."""
        return self._engine.tunings.take_away(self._stored.name)

    def _judged(
        self, pairs: str | Path | Pairs, k: int
    ) -> tuple[CollectionInfo, Mapping[str, frozenset[str]], int, int]:
        """The collection, and the questions with those right documents that it has; how many are left out, missing."""
        number: Any = k
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_K:
            raise InvalidInput(f"k must be a whole number from 1 to {MAX_K}, not {k!r}")
        every = asked.read(pairs) if isinstance(pairs, str | Path) else asked.given(pairs)
        info = self._stored.info()
        if info is None:
            raise CollectionNotFound(f"there is no collection {self._stored.name!r}", name=self._stored.name)
        wanted = frozenset[str]().union(*every.values())
        there = self._stored.known(wanted).keys()
        questions = {question: ids & there for question, ids in every.items() if ids & there}
        if not questions:
            absent = ", ".join(map(repr, sorted(wanted)[:3]))
            raise InvalidInput(
                f"collection {info.name!r} has none of the documents that the pairs name ({absent} …): ids are those "
                f"that `embank list` shows"
            )
        return info, questions, len(every) - len(questions), len(wanted - there)


def _facts(report: TuneReport) -> dict[str, Any]:
    told = report.as_dict()
    return {key: told[key] for key in ("k", "questions", "folds", "before", "after", "gain")}

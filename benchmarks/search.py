"""Hybrid search against its own inputs and its peers, on real questions: `python -m benchmarks.search --json`.

Twelve corpora of `benchmarks.pairs`, each question with the one document that answers it, searched through the product
with MiniLM int8 and its default settings. Figures are of the scored half of each corpus; nothing was tuned on it, and
of the corpora in `UNSEEN` no half was looked at before. A document that scores as well as the right one stands before
it: ties count as losses.

worst_delta_pp           recall@1 of hybrid less that of the better of dense and lexical, in points, worst corpus
mean_gain_mrr            100 times the MRR@10 of hybrid less that of the better of the two, mean over the corpora
…_unseen                 the same over the corpora that were held out entirely
…_rrf, …_lancedb         the same of plain reciprocal rank fusion (k = 60), and of LanceDB's hybrid search
p50_ms, p99_ms           of a hybrid search for 10 over 117,659 glosses of WordNet, besides embedding the question
filtered_p99_ms          with a filter that 1 % of the documents match; filtered_recall: of dense searches with it
cached_ms                of a question that was asked before
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks import searchpeers, searchspeed
from benchmarks.embedded import Float32, say
from benchmarks.pairs import CORPORA, UNSEEN, Pairs, pairs
from benchmarks.report import Mark, publish
from benchmarks.searched import asked, fill, open_bank, passages, searched
from embank.bank import Bank, LocalCollection
from embank.search.settings import Mode

MARKS = {
    "worst_delta_pp": Mark(">=", -0.5),
    "mean_gain_mrr": Mark(">=", 2.0),
    "p50_ms": Mark("<", 6),
    "p99_ms": Mark("<", 20),
    "filtered_p99_ms": Mark("<", 25),
    "filtered_recall": Mark(">=", 0.98),
    "cached_ms": Mark("<", 0.2),
}

_ABSENT = 1_000
_RESAMPLES = 2_000
Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """Ranks of the right document for each scored question, by method; `_ABSENT` where it is not among the first 10."""

    corpus: Pairs
    ranks: dict[str, Ranks]

    def figures(self) -> dict[str, dict[str, float]]:
        """recall@1, MRR@10 and nDCG@10 of each method, 0 to 1."""
        return {
            name: {
                "recall_at_1": float(_hit(ranks).mean()),
                "mrr_at_10": float(_reciprocal(ranks).mean()),
                "ndcg_at_10": float(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean()),
            }
            for name, ranks in self.ranks.items()
        }

    def over_inputs(self, method: str, of: Callable[[Ranks], npt.NDArray[np.float64]]) -> dict[str, float]:
        """100 times what a method is above the better of the two inputs, with the paired bootstrap's 95 % interval."""
        better = max((self.ranks[side] for side in ("dense", "lexical")), key=lambda ranks: float(of(ranks).mean()))
        differences = 100 * (of(self.ranks[method]) - of(better))
        drawn = np.random.default_rng(3).integers(0, len(differences), (_RESAMPLES, len(differences)))
        low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
        return {"value": float(differences.mean()), "low": float(low), "high": float(high)}


def measure(names: list[str], most: int, *, half: str, peers: bool) -> list[Measured]:
    """What each method finds for at most so many questions of a half of each corpus."""
    corpora = [corpus for corpus in map(pairs, names) if corpus is not None]
    found: list[Measured] = []
    with open_bank() as bank:
        for corpus in corpora:
            chosen = getattr(corpus, half)[:most]
            ranks = _all_ranks(bank, corpus, chosen, peers=peers)
            found.append(Measured(corpus, ranks))
            say(f"{corpus.name}: {len(chosen)} questions, {found[-1].figures()}")
    with open_bank({"search.fusion": "ranks"}) as bank:
        for each in found:
            chosen = getattr(each.corpus, half)[:most]
            each.ranks["rrf"] = _ranks_of(
                searched(bank, each.corpus), each.corpus, asked(each.corpus), chosen, "hybrid"
            )
    return found


def _all_ranks(bank: Bank, corpus: Pairs, chosen: list[int], *, peers: bool) -> dict[str, Ranks]:
    fill(bank, corpus)
    collection, vectors = searched(bank, corpus), asked(corpus)
    modes: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
    ranks = {mode: _ranks_of(collection, corpus, vectors, chosen, mode) for mode in modes}
    return ranks | (_peers(bank, corpus, vectors, chosen) if peers else {})


def _ranks_of(collection: LocalCollection, corpus: Pairs, vectors: Float32, chosen: list[int], mode: Mode) -> Ranks:
    ranks = []
    for number in chosen:
        hits = collection.search(corpus.questions[number], vector=vectors[number], k=10, mode=mode)
        scores = {hit.id: hit.score for hit in hits}
        right = scores.get(str(number))
        ranks.append(_ABSENT if right is None else sum(score >= right for score in scores.values()))
    return np.array(ranks)


def _peers(bank: Bank, corpus: Pairs, vectors: Float32, chosen: list[int]) -> dict[str, Ranks]:
    texts, owners, rows = passages(bank, corpus)
    ranks = {}
    for name, make in (("lancedb", searchpeers.lancedb), ("chroma", searchpeers.chroma)):
        ask = make(texts, rows)
        if ask is None:
            continue
        of = []
        for number in chosen:
            documents = list(dict.fromkeys(owners[row] for row in ask(corpus.questions[number], vectors[number])))[:10]
            of.append(documents.index(number) + 1 if number in documents else _ABSENT)
        ranks[name] = np.array(of)
    return ranks


def _hit(ranks: Ranks) -> npt.NDArray[np.float64]:
    hit: npt.NDArray[np.float64] = (ranks == 1).astype(np.float64)
    return hit


def _reciprocal(ranks: Ranks) -> npt.NDArray[np.float64]:
    reciprocal: npt.NDArray[np.float64] = np.where(ranks <= 10, 1 / ranks, 0.0)
    return reciprocal


def summed(found: list[Measured]) -> dict[str, float | None]:
    """The figures over all corpora."""
    figures: dict[str, float | None] = {}
    for method, tail in (("hybrid", ""), ("rrf", "_rrf"), ("lancedb", "_lancedb")):
        there = [each for each in found if method in each.ranks]
        for suffix, those in (("", there), ("_unseen", [each for each in there if each.corpus.name in UNSEEN])):
            if those:
                figures[f"worst_delta_pp{tail}{suffix}"] = min(
                    each.over_inputs(method, _hit)["value"] for each in those
                )
                gains = [each.over_inputs(method, _reciprocal)["value"] for each in those]
                figures[f"mean_gain_mrr{tail}{suffix}"] = float(np.mean(gains))
    return figures


def _show(found: list[Measured]) -> None:
    table = Table(title="recall@1 / MRR@10 / nDCG@10 in percent; hybrid less the better input, with 95 % intervals")
    methods = list(dict.fromkeys(name for each in found for name in each.ranks))
    for column in ("corpus", "questions", "documents", *methods, "recall@1", "MRR@10"):
        table.add_column(column, justify="left" if column == "corpus" else "right")
    for each in found:
        shown = each.figures()
        cells = [
            " / ".join(f"{100 * value:.1f}" for value in shown[name].values()) if name in shown else ""
            for name in methods
        ]
        above = [each.over_inputs("hybrid", of) for of in (_hit, _reciprocal)]
        told = [f"{a['value']:+.1f} ({a['low']:+.1f} … {a['high']:+.1f})" for a in above]
        mark = " (unseen)" if each.corpus.name in UNSEEN else ""
        count = len(each.ranks["hybrid"])
        table.add_row(each.corpus.name + mark, f"{count:,}", f"{len(each.corpus.documents):,}", *cells, *told)
    Console(stderr=True, width=200).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a mark is missed")
    parser.add_argument("--corpora", nargs="*", default=list(CORPORA), choices=list(CORPORA))
    parser.add_argument("--questions", type=int, default=1_000, help="of each corpus, at most")
    parser.add_argument(
        "--half", default="scored", choices=("scored", "developing"), help="developing: to look at while building"
    )
    parser.add_argument("--no-peers", action="store_true", help="without LanceDB and Chroma")
    parser.add_argument("--documents", type=int, help="glosses to measure times over; all, if not given")
    parser.add_argument("--no-speed", action="store_true", help="without the figures of time")
    given = parser.parse_args()
    found = measure(given.corpora, given.questions, half=given.half, peers=not given.no_peers)
    _show(found)
    figures = summed(found)
    detail: dict[str, Any] = {
        "half": given.half,
        "corpora": {
            each.corpus.name: {
                "questions": len(each.ranks["hybrid"]),
                "documents": len(each.corpus.documents),
                "unseen": each.corpus.name in UNSEEN,
                "methods": each.figures(),
                "delta_pp": each.over_inputs("hybrid", _hit),
                "gain_mrr": each.over_inputs("hybrid", _reciprocal),
            }
            for each in found
        },
    }
    if not given.no_speed:
        figures |= searchspeed.measure(given.documents, min(given.questions, 1_000))
    met = publish("search", figures, MARKS, detail, as_json=given.json)
    sys.exit(given.strict and not met)


if __name__ == "__main__":
    main()

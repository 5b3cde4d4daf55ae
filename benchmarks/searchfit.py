"""How a hybrid search should weigh its sides: `python -m benchmarks.searchfit`.

Looks at development halves only, and of those corpora only that are not held out (`benchmarks.pairs`). Each way of
fusing is fitted on all corpora but one and measured on that one, in turns; "fitted on all" is what one would choose.
Run it again when the lexical side changes: the constants of `embank.search.weights` and decision 7 rest on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.embedded import say
from benchmarks.pairs import CORPORA, UNSEEN, Pairs, pairs
from benchmarks.searched import Float32, asked, fill, open_bank, searched
from embank.bank import Bank
from embank.search.fuse import candidates, ceiling, fuse
from embank.search.weights import Fusion
from embank.store.index.protocol import Neighbors, Slots

DEPTH = 100
WAYS: dict[str, list[Fusion]] = {
    "ranks": [Fusion("ranks")],
    "one weight of standardised scores": [Fusion(dense_weight=weight / 20) for weight in range(8, 20)],
    "coverage": [Fusion("coverage", coverage=worth / 2) for worth in range(2, 21)],
}

_Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gathered:
    """The candidates of one question; `documents` are those of the slots."""

    slots: Slots
    dense: Float32
    lexical: Neighbors
    ceiling: float
    documents: npt.NDArray[np.int64]
    right: int

    def rank(self, fusion: Fusion) -> int:
        """Of the right document; ties count as losses."""
        found = fuse(self.slots, self.dense, self.lexical, fusion=fusion, depth=DEPTH, ceiling=self.ceiling)
        documents = self.documents[np.searchsorted(self.slots, found.slots)]
        there = np.flatnonzero(documents == self.right)
        if not len(there):
            return 1_000
        return len(np.unique(documents[found.score >= found.score[there[0]]]))


def gathered(bank: Bank, corpus: Pairs, most: int) -> list[Gathered]:
    """Candidates for at most so many questions of the development half."""
    fill(bank, corpus)
    vectors, out = asked(corpus), []
    with searched(bank, corpus)._stored.snapshot() as snapshot:  # noqa: SLF001 -- candidates, as the searcher gets them
        every = snapshot.live_slots()
        documents = np.zeros(int(every.max()) + 1, np.int64)
        documents[every] = [int(passage.id) for passage in snapshot.passages(every)]
        for number in corpus.developing[:most]:
            text = corpus.questions[number]
            dense, words = snapshot.dense(vectors[number], DEPTH), snapshot.lexical(text, DEPTH)
            slots = candidates(dense, words)
            similarity = snapshot.similarity(vectors[number], slots)
            most_bm25 = ceiling(*snapshot.terms(text))
            out.append(Gathered(slots, similarity, words, most_bm25, documents[slots], number))
    return out


def over_inputs(of: Sequence[Gathered], ways: Sequence[Fusion]) -> _Points:
    """Points of recall@1 and of MRR@10 above the better of the two inputs, shape (ways, 2)."""
    better = np.maximum(*(_points(of, Fusion(dense_weight=weight)) for weight in (0.0, 1.0)))
    return np.array([_points(of, way) - better for way in ways])


def _points(of: Sequence[Gathered], fusion: Fusion) -> _Points:
    ranks = np.array([each.rank(fusion) for each in of], np.float64)
    return 100 * np.array([(ranks == 1).mean(), np.where(ranks <= 10, 1 / ranks, 0).mean()])


def _best(points: _Points) -> int:
    """The way with the greatest mean gain in MRR less what the worst corpus loses; shape (corpora, ways, 2)."""
    return int(np.argmax(points[:, :, 1].mean(axis=0) + np.minimum(points[:, :, 0].min(axis=0), 0)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=800, help="of each corpus, at most")
    given = parser.parse_args()
    found: dict[str, list[Gathered]] = {}
    with open_bank() as bank:
        for corpus in (pairs(name) for name in CORPORA if name not in UNSEEN):
            if corpus is not None:
                found[corpus.name] = gathered(bank, corpus, given.questions)
                say(f"{corpus.name}: {len(found[corpus.name])} questions")
    table = Table(title="recall@1 / MRR@10 above the better input, fitted on the other corpora")
    for column in ("fused", "fitted on all", "worst", "mean", *found):
        table.add_column(column)
    for name, ways in WAYS.items():
        points = np.array([over_inputs(of, ways) for of in found.values()])
        left_out = [_best(np.delete(points, place, axis=0)) for place in range(len(found))]
        rows = points[np.arange(len(found)), left_out]
        shown = [f"{recall:+.1f} / {mrr:+.1f}" for recall, mrr in (rows.min(axis=0), rows.mean(axis=0), *rows)]
        chosen = ways[_best(points)]
        table.add_row(name, f"{chosen.coverage if name == 'coverage' else chosen.dense_weight}", *shown)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()

"""One comparison of ways to keep vectors: half of a sample fits what is to be fitted, the other half is searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embank.embed.reduce import Pca, fit_pca
from embank.errors import InvalidInput
from embank.reduce import questions
from embank.reduce.evaluate import Evaluation, Way, judge, working_bytes
from embank.reduce.sample import OnProgress, blocks, told

if TYPE_CHECKING:
    from embank.embed.engine import Budget
    from embank.embed.model import Model
    from embank.store.index.protocol import Slots
    from embank.store.snapshot import Snapshot

MAX_K = 100

_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is asked: PCAs to which `dimensions`, recall at which `k`, with whose `queries` (None: drawn ones)."""

    dimensions: tuple[int, ...]
    k: int
    seed: int
    queries: tuple[str, ...] | None = None


def compare(
    snapshot: Snapshot,
    slots: Slots,
    inquiry: Inquiry,
    ways_of: Callable[[Sequence[Pca]], list[Way]],
    *,
    model: Model | None,
    budget: Budget,
    on_progress: OnProgress | None,
) -> Evaluation:
    """Judge the ways that `ways_of` makes of the fitted PCAs. `slots` are the sample, in random order.

    A PCA for which a half has too few vectors is left out, and said so. Raises `InvalidInput`, `BudgetExceeded`.
    """
    info, half, k = snapshot.info, len(slots) // 2, _checked_k(inquiry.k)
    if not half:
        raise _too_few(info.name, len(slots))
    told(on_progress, 0.0, "fitting on one half")
    possible = [each for each in inquiry.dimensions if each <= half]
    pcas = fit_on(snapshot, slots[:half], possible, budget=budget) if possible else []
    if inquiry.queries is not None:
        asked = questions.own(inquiry.queries, model)
    else:
        asked = questions.drawn(snapshot, slots[half:][: max(min(questions.DRAWN, half // 2), 1)], model)
    searched = np.setdiff1d(slots[half:], asked.taken)
    if not len(searched):
        raise _too_few(info.name, len(slots))
    k = min(k, len(searched))
    passages = len(snapshot.live_slots())
    ways = ways_of(pcas)
    count, width = asked.vectors.shape
    wanted = working_bytes(len(ways) + 1, width=width, queries=count, k=k) + asked.vectors.nbytes * (1 + len(ways))
    with budget.reserve("comparing ways to keep vectors", wanted, wait_s=_WAIT_S):
        lines = judge(
            snapshot,
            searched,
            asked.vectors,
            ways,
            k=k,
            passages=passages,
            seed=inquiry.seed,
            on_progress=on_progress,
        )
    return Evaluation(
        collection=info.name,
        fingerprint=info.fingerprint or "",
        dimension=width,
        dtype=info.dtype,
        passages=passages,
        fitted_on=half,
        searched=len(searched),
        queries=count,
        asked=asked.asked,
        k=k,
        seed=inquiry.seed,
        lines=lines,
        left_out=[
            f"PCA to {each}: needs at least {each} vectors to be fitted on, a half of the sample has {half}"
            for each in inquiry.dimensions
            if each > half
        ],
    )


def fit_on(snapshot: Snapshot, slots: Slots, dimensions: Sequence[int], *, budget: Budget) -> list[Pca]:
    """PCAs fitted on the vectors at `slots`."""
    info = snapshot.info
    return fit_pca(
        blocks(snapshot, slots),
        dimensions,
        width=info.dimension or 0,
        source=info.fingerprint or "",
        budget=budget,
    )


def pca_way(pca: Pca, dtype: str) -> Way:
    """Vectors reduced by `pca`, stored as `dtype`."""
    return Way("PCA", dtype, pca.dimension, pca)


def _checked_k(k: object) -> int:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise InvalidInput(f"k must be a whole number from 1 to {MAX_K}, not {k!r}", value=k)
    return k


def _too_few(name: str, there: int) -> InvalidInput:
    return InvalidInput(
        f"collection {name!r} has too few passages to compare ways of keeping them: {there}", vectors_there=there
    )

"""What the nearest vectors truly are, for many questions at once: the measure of every index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embank.store.index.protocol import Float32, Slots
from embank.store.metric import scores_of_each
from embank.store.vectors import Rows

_BLOCK_ROWS = 1_024
"""Compared at once: more are no faster, and for some hundred questions every thousand takes 5 MB."""


def working_bytes(questions: int, dimension: int) -> int:
    """What `nearest` holds: of a block its vectors, twice for some metrics, and scores and their order a question."""
    return _BLOCK_ROWS * (8 * dimension + 16 * questions)


def nearest(
    rows: Rows, slots: Slots, questions: Float32, k: int, *, check: Callable[[], None]
) -> tuple[Slots, Float32]:
    """Places within `slots` of the nearest `k` of each question, in no order, and their scores.

    Both have shape (len(questions), at most k). `check` is called before every block, and may raise.
    """
    best = np.empty((len(questions), 0), np.float32)
    places = np.empty((len(questions), 0), np.int64)
    for first in range(0, len(slots), _BLOCK_ROWS):
        check()
        found = scores_of_each(rows.metric, questions, rows.gather(slots[first : first + _BLOCK_ROWS]))
        here = _highest(found, k)
        best = np.concatenate((best, np.take_along_axis(found, here, 1)), axis=1)
        places = np.concatenate((places, first + here), axis=1)
        kept = _highest(best, k)
        best, places = np.take_along_axis(best, kept, 1), np.take_along_axis(places, kept, 1)
    return places, best


def _highest(values: Float32, k: int) -> Slots:
    """Where in each row the highest `k` stand, in no order."""
    width = values.shape[1]
    return np.argpartition(values, max(width - k, 0), axis=1)[:, max(width - k, 0) :] if width else values.astype(int)

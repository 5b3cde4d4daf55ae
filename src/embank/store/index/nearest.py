"""What the nearest vectors truly are, for many questions at once: the measure of every index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embank.store.index.building import BLOCK_ROWS
from embank.store.index.protocol import Float32, Slots
from embank.store.metric import scores_of_each
from embank.store.vectors import Rows


def working_bytes(questions: int, dimension: int) -> int:
    """What `nearest` holds: of a block its vectors, and for each question scores and places, in order and out of it."""
    return BLOCK_ROWS * (4 * dimension + 32 * questions)


def nearest(
    rows: Rows, slots: Slots, questions: Float32, k: int, *, check: Callable[[], None]
) -> tuple[Slots, Float32]:
    """Places within `slots` of the nearest `k` of each question, in no order, and their scores.

    Both have shape (len(questions), at most k). `check` is called before every block, and may raise.
    """
    best = np.empty((len(questions), 0), np.float32)
    places = np.empty((len(questions), 0), np.int64)
    for first in range(0, len(slots), BLOCK_ROWS):
        check()
        block = rows.gather(slots[first : first + BLOCK_ROWS])
        best = np.concatenate((best, scores_of_each(rows.metric, questions, block)), axis=1)
        here = np.broadcast_to(np.arange(first, first + len(block)), (len(questions), len(block)))
        places = np.concatenate((places, here), axis=1)
        kept = np.argpartition(-best, min(k, best.shape[1]) - 1, axis=1)[:, :k]
        best, places = np.take_along_axis(best, kept, 1), np.take_along_axis(places, kept, 1)
    return places, best

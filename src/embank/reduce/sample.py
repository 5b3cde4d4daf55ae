"""Drawing vectors from a collection: which ones by a seed, and reading them in blocks, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from embank.embed.reduce import BLOCK_ROWS, Float32
from embank.errors import InvalidInput
from embank.store.index.protocol import Slots
from embank.store.snapshot import Snapshot

OnProgress = Callable[[float, str], None]
"""Told the fraction done, 0 to 1, and the step in words."""

SAMPLE = 20_000
"""Vectors drawn unless one says otherwise: of a larger sample the directions hardly change."""

# The list of slots, its permutation, and the random numbers behind it.
BYTES_A_SLOT = 24


def draw(live: Slots, count: object, *, seed: int) -> Slots:
    """At most `count` of `live`, in random order; the same ones for the same seed and the same slots."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidInput(f"a sample has at least one vector, not {count!r}", value=count)
    return np.random.default_rng(seed).permutation(live)[:count]


def blocks(snapshot: Snapshot, slots: Slots, *, rows: int = BLOCK_ROWS) -> Iterator[Float32]:
    """The vectors of `slots`, ascending, so many at a time."""
    ascending = np.sort(slots)
    for first in range(0, len(ascending), rows):
        yield snapshot.vectors(ascending[first : first + rows])


def told(on_progress: OnProgress | None, fraction: float, step: str) -> None:
    """Tell whoever wants to know."""
    if on_progress is not None:
        on_progress(fraction, step)

"""Which of the candidates are answered: good enough, not seen before, so many of a document, and not all alike."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from embank.search.fuse import Fused
from embank.search.query import Query
from embank.store.index.protocol import Float32, Slots
from embank.store.snapshot import Snapshot

DIGEST_BYTES = 6
"""Of an id that was seen. Of 1,000 seen and as many candidates none is taken for another but once in 10^8 times."""


def digest(document: str) -> bytes:
    """What stands for a document's id where many are kept."""
    return hashlib.blake2b(document.encode(), digest_size=DIGEST_BYTES).digest()


def taken(found: Fused, places: Slots | list[int] | slice) -> Fused:
    """The candidates at those places, in that order."""
    return replace(
        found,
        slots=found.slots[places],
        dense=found.dense[places],
        lexical=found.lexical[places],
        score=found.score[places],
    )


def eligible(found: Fused, query: Query, snapshot: Snapshot, *, own: Slots) -> Fused:
    """Those that score enough, are not `own` (the slots of the document that is asked about), and were not seen."""
    keep = np.ones(len(found.slots), np.bool_)
    if query.min_score is not None:
        keep &= found.score >= query.min_score
    if len(own):
        keep &= ~np.isin(found.slots, own)
    if query.seen:
        names = snapshot.names(found.slots)
        keep &= np.array([digest(names.get(slot, "")) not in query.seen for slot in found.slots.tolist()], np.bool_)
    return found if keep.all() else taken(found, np.flatnonzero(keep))


def best_of_each(found: Fused, snapshot: Snapshot, k: int, *, per_document: int) -> Fused:
    """The `k` best, of no document more than `per_document`."""
    counts: dict[int, int] = {}
    keep: list[int] = []
    place = 0
    while place < len(found.slots) and len(keep) < k:
        # As many more as are missing, and twice what was looked at: mostly the first ones are enough.
        slots = found.slots[place : max(place + k - len(keep), 2 * place)]
        owners = snapshot.owners(slots)
        for slot in slots.tolist():
            owner = owners.get(slot)
            if owner is not None and counts.get(owner, 0) < per_document and len(keep) < k:
                counts[owner] = counts.get(owner, 0) + 1
                keep.append(place)
            place += 1
    return taken(found, keep)


def diverse(found: Fused, vectors: Float32, k: int, *, diversity: float) -> Fused:
    """`k` of the candidates by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), in that order.

    Each next one has the greatest (1 - diversity) * relevance - diversity * likeness: the relevance is the score,
    brought to 0 to 1 over the candidates, the likeness the greatest cosine to one that was taken. `vectors` are those
    of the candidates, shape (len(found.slots), dimension).
    """
    if not len(found.slots):
        return found
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    low, high = float(found.score.min()), float(found.score.max())
    relevance = (found.score - low) / (high - low) if high > low else np.ones_like(found.score)
    likeness = np.full(len(unit), -np.inf, np.float32)
    free = np.ones(len(unit), np.bool_)
    order: list[int] = []
    while len(order) < min(k, len(unit)):
        worth = relevance if not order else (1 - diversity) * relevance - diversity * likeness
        place = int(np.argmax(np.where(free, worth, -np.inf)))
        free[place] = False
        order.append(place)
        likeness = np.maximum(likeness, unit @ unit[place])
    return taken(found, order)

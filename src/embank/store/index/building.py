"""Making codes from mapped vectors: trained on a sample that fits the memory granted, filled block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embank.errors import BudgetExceeded
from embank.memory.governor import Governor
from embank.store.index.backend import Home, backend
from embank.store.index.protocol import Codes, Float32, Mask, Slots, Way
from embank.store.vectors import Rows
from embank.system.log import get_logger

_log = get_logger(__name__)

BLOCK_ROWS = 4_096
_TRAINING_FACTOR = 2.5
"""What training takes over its sample: FAISS normalises, subtracts centroids and permutes in copies."""

_GROWTH_FACTOR = 2
"""A list that grows holds its old and its new place while it is copied."""

PQ_WARNING_ROWS = 10_000


class Interrupted(Exception):
    """The building was called off, as by whoever closes the bank."""


def training_bytes(way: Way, rows: int) -> int:
    """What training on so many vectors takes."""
    return rows * int(way.dimension * 4 * _TRAINING_FACTOR)


def trained(
    way: Way, rows: Rows, *, home: Home, dead: Mask | None, governor: Governor | None, seed: int = 0
) -> tuple[Codes, int]:
    """Empty codes, and how many rows they were trained on: as many as the memory granted allows.

    Raises `InvalidInput` for fewer rows than the method needs, and `BudgetExceeded` where not even those fit.
    """
    living = np.arange(len(rows)) if dead is None else np.flatnonzero(~dead[: len(rows)])
    way.check_rows(len(living))
    make = backend(way.kind).make
    wanted = min(way.wanted_rows, len(living))
    if governor is None:
        return make(way, _sample(rows, living, wanted, seed), home), wanted
    with governor.reserve(
        f"training {way.name}",
        training_bytes(way, wanted),
        least_bytes=training_bytes(way, way.least_rows),
    ) as granted:
        count = min(granted.granted_bytes // training_bytes(way, 1), wanted)
        codes = make(way, _sample(rows, living, count, seed), home)
    if way.kind == "pq" and count < PQ_WARNING_ROWS:
        _log.warning("%s was trained on %d vectors; fewer than %d cost recall", way.name, count, PQ_WARNING_ROWS)
    return codes, count


def fill(
    codes: Codes, rows: Rows, *, governor: Governor | None, going: Callable[[], bool], below: int | None = None
) -> None:
    """Take in the vectors of `rows` that the codes lack (up to slot `below`).

    Raises `BudgetExceeded`, and `Interrupted` once `going` says no.
    """
    end = len(rows) if below is None else below
    scratch = np.empty((min(BLOCK_ROWS, end), rows.codec.dimension), np.float32)
    held = codes.method.held_bytes(end) * _GROWTH_FACTOR + scratch.nbytes
    reservation = None if governor is None else governor.reserve(f"building {codes.method.name}", held)
    try:
        for first, block in rows.blocks(BLOCK_ROWS, first_slot=codes.rows):
            if not going():
                raise Interrupted
            if first >= end:
                break
            codes.add(rows.codec.decode(block[: end - first], scratch))
    finally:
        if reservation is not None:
            reservation.release()


def check_budget(way: Way, rows: int, limit_bytes: int) -> None:
    """Raise `BudgetExceeded` where the codes of so many rows would take more than `limit_bytes`."""
    needed = way.held_bytes(rows)
    if needed > limit_bytes:
        raise BudgetExceeded(
            f"the vector index {way.name}",
            wanted_bytes=needed,
            available_bytes=limit_bytes,
            budget_bytes=limit_bytes,
        )


def _sample(rows: Rows, living: Slots, count: int, seed: int) -> Float32:
    if count >= len(living):
        return rows.gather(living)
    chosen = np.random.default_rng(seed).choice(len(living), count, replace=False)
    return rows.gather(living[np.sort(chosen)])

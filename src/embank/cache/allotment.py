"""How much of a budget a cache may take.

At most half of what remains below the mark at which the ladder's first rung is left: were caches to fill all of it, a
full cache alone would keep the ladder on that rung, and be asked to give up what it just earned, for ever.
"""

from __future__ import annotations

from embank.memory.governor import Governor

MARK = 0.60
"""The part of the budget at which the rung `release` is left."""
SHARE = 0.5


def allotment(governor: Governor, *, used_bytes: int = 0, mark: float = MARK) -> int:
    """The most bytes that a cache which now holds `used_bytes` may hold.

    What is left below the mark counts as it is now, so ask once model, writer and a batch are there, or again whenever
    more is wanted. The mark is taken of the whole budget, which is the more careful where there is a floor.
    """
    left_bytes = governor.available_bytes() - round((1 - mark) * governor.budget_bytes)
    return max(int((used_bytes + left_bytes) * SHARE), 0)

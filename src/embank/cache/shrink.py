"""Giving memory back: fewer slots, the most valuable entries kept, the pages with the system when it returns.

The entries that a policy holds for worth least go; those worth keeping that lie beyond the new end are copied into the
holes before it, and then the end of each array is dropped. Copying is bounded, so that a large release stays quick:
what is beyond the bound goes, too. Called with the cache's lock held and nobody writing.
"""

from __future__ import annotations

import numpy as np

from embank.cache.policies.policy import FREE, QUEUE, Slots
from embank.cache.region import BLOCK, Region

_MOVED_BYTES = 4 << 20
"""Rows copied at most in one call; more than that are let go."""
_BLOCK_WORTH = 1 << 16


def shrink(region: Region, slots: int) -> int:
    """Give back all but `slots` slots; the bytes freed. Entries that have no place in them go, the cheapest first."""
    before_bytes = region.used_bytes
    if slots <= 0:
        region.evicted += region.entries
        empty(region)
    elif slots < region.committed:
        # Where the plan changes the index is made anew from what is left, and nothing need be taken out of it.
        plan = region.plan_for(slots)
        indexed = plan == region.plan
        _drop_cheapest(region, region.entries - slots, indexed=indexed)
        beyond = sum(int((block >= slots).sum()) for block in region.occupied())
        _drop_cheapest(region, beyond - _MOVED_BYTES // region.row_bytes, start=slots, indexed=indexed)
        _pull_in(region, slots, plan)
    return before_bytes - region.used_bytes


def shrink_to_bytes(region: Region, target_bytes: int) -> int:
    """The same for a number of bytes that it may hold at most."""
    slots = region.committed
    low, high = 0, slots
    while low < high:
        middle = (low + high + 1) // 2
        fits = region.bytes_at(middle, region.plan_for(middle)) <= target_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return shrink(region, low) if low < slots else 0


def empty(region: Region) -> int:
    """Give back everything; the bytes freed."""
    freed_bytes = region.used_bytes
    region.epoch += 1
    region.lanes.truncate(0, region.committed)
    region.reset()
    return freed_bytes


def clear_space(region: Region, spaces: set[int]) -> int:
    """Take out the entries of these spaces, and give back what that leaves unused; the bytes freed."""
    gone = 0
    for slots in region.occupied():
        mine = slots[np.isin(region.lanes["space"][slots], list(spaces))]
        region.discard(mine)
        gone += len(mine)
    if not gone:
        return 0
    region.policy.forget()
    return shrink(region, region.entries)


def _drop_cheapest(region: Region, count: int, *, start: int = 0, indexed: bool = True) -> None:
    """Take out the `count` entries of slots from `start` on that are worth least; `indexed`: out of the table, too.

    Of equals those furthest back go, since they would have to be moved.
    """
    if count <= 0:
        return
    blocks = range(start, region.top, _BLOCK_WORTH)
    tally = np.zeros(256, np.int64)
    for block in blocks:
        tally += np.bincount(_worth(region, block)[0], minlength=256)
    level = int(np.searchsorted(np.cumsum(tally), count))
    at_level = count - int(tally[:level].sum())
    for block in reversed(blocks):
        worth, slots = _worth(region, block)
        going = worth < level
        equal = (worth == level).nonzero()[0]
        equal = equal[max(len(equal) - at_level, 0) :]
        going[equal] = True
        at_level -= len(equal)
        gone = slots[going]
        region.discard(gone, indexed=indexed)
        region.evicted += len(gone)
    region.policy.forget()


def _worth(region: Region, start: int) -> tuple[np.ndarray, Slots]:
    """What the entries of a block of slots are worth, and their slots."""
    stop = min(start + _BLOCK_WORTH, region.top)
    taken = ((region.lanes["state"][start:stop] & np.uint8(QUEUE)) != FREE).nonzero()[0]
    return region.policy.worth(start, stop)[taken], taken + start


def _pull_in(region: Region, slots: int, plan: int) -> None:
    """Make `slots` the end: move entries from beyond it into the holes before it, and drop what lies beyond."""
    old_top = region.top
    source = np.concatenate([block[block >= slots] for block in region.occupied()] or [np.empty(0, np.int64)])
    target = _holes(region, slots, len(source))
    region.epoch += 1  # before anything is copied over: a reader's rows may be what is overwritten
    region.top = min(region.top, slots)
    if len(target):
        region.top = max(region.top, int(target.max()) + 1)
    if plan == region.plan:
        region.table.renumber(region.lanes["key"], source, target)
    region.lanes.move(source, target)
    region.lanes["version"][target] += np.uint16(1)
    region.policy.renumber(slots, source, target)
    region.lanes.truncate(slots, min(max(old_top, slots), region.committed))
    region.committed = slots
    region.forget_free()
    if plan != region.plan:
        region.replan(plan)
    region.used_bytes = region.bytes_at(slots, region.plan)


def _holes(region: Region, slots: int, wanted: int) -> Slots:
    """Free slots below `slots`, ascending."""
    found: list[Slots] = [np.empty(0, np.int64)]
    state = region.lanes["state"]
    for start in range(0, slots, BLOCK):
        if wanted <= 0:
            break
        free = (state[start : min(start + BLOCK, slots)] & np.uint8(QUEUE) == FREE).nonzero()[0][:wanted] + start
        found.append(free)
        wanted -= len(free)
    return np.concatenate(found)

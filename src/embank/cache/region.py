"""All entries whose rows have one width: rows, what is known of each, where it is, and which goes next.

A region grows into the room that it is given and shrinks to what it is told (`embank.cache.shrink`); its slots are
always 0 … committed - 1, so that what it gives back is the end of each array. Everything that it holds is in
`used_bytes`: rows, keys, table, the policy's queues and fingerprints, whole pages, slots that are free.

The index and the policy are sized for a plan: the capacity, or half of it, or a quarter …, the least that does; so a
cache that stays small has a small table, and one at its limit a table of just the right size.

Not thread-safe: the cache calls all of it with its lock held, except `gather` and `write`, which are made to run beside
everything else. `gather` may read rows that are being replaced: what it read counts only where `intact` says so after
it. A slot's version changes before its row does, and `epoch` before slots are moved or given back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embank.cache import table as tables
from embank.cache.codec import Rows
from embank.cache.keys import Keys
from embank.cache.policies.policy import FREE, QUEUE, WRITING, Policy, Slots
from embank.cache.slab import Lanes
from embank.cache.table import Table

_FIELDS = {
    "key": ("<u8", 2),
    "version": ("<u2", 1),
    "state": ("u1", 1),
    "cost": ("u1", 1),
    "space": ("u1", 1),
    "born": ("<u4", 1),
}
BLOCK = 8_192
"""Slots worked on at once, so that what a call needs beside the cache's own memory stays below half a megabyte."""
_LEAST_PLAN = 64
_STEP_BYTES = 1 << 18
_BATCH = 128
"""One in so many entries goes at once where any has to."""
_MOST_BATCH = 1_024
_AGE_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look-up found: slots and versions of the `hit` keys, and the state of the region that they belong to."""

    hit: npt.NDArray[np.bool_]
    slots: Slots
    versions: npt.NDArray[np.uint16]
    lanes: Lanes
    epoch: int


class Region:
    """See the module. `room` is asked for bytes when the region wants to grow, and answers how many it may take."""

    def __init__(
        self, row_bytes: int, policy: type[Policy], *, limit_bytes: int, room: Callable[[Region, int], int]
    ) -> None:
        self.row_bytes = row_bytes
        self.fields = {"row": ("u1", row_bytes), **_FIELDS, **policy.FIELDS}
        self._policy_class = policy
        self._room = room
        self.capacity = self.slots_within(limit_bytes)
        self.lanes = Lanes(max(self.capacity, 1), self.fields)
        self.entries = self.evicted = self.rejected = self.writers = self.publications = self.epoch = 0
        self.evicted_age_s = 0.0
        """A moving average of how long entries had been there when they were evicted."""
        self.now_s = 0
        """Seconds since the cache began, as it was told last."""
        self.activity = 0.0
        """Look-ups and insertions of late: what makes one region's bytes worth more than another's."""
        self.reset()

    def reset(self) -> None:
        """Hold nothing. The caller has taken care of entries that were there."""
        self.committed = self.top = self.plan = self.used_bytes = self.entries = 0
        self._free: Slots = np.empty(0, np.int64)
        self._hidden = 0
        """Free slots that stand in no list and are found by their state."""
        self.table = Table(1)
        self.policy = self._policy_class(self.lanes, 1)

    # --- sizes ------------------------------------------------------------------------------------------------------

    def bytes_at(self, slots: int, plan: int) -> int:
        """What the region holds with so many slots committed, index and policy made for `plan`."""
        if not plan:
            return 0
        return Lanes.bytes_at(self.fields, slots) + tables.bytes_for(plan) + self._policy_class.bytes_for(plan)

    def slots_within(self, limit_bytes: int) -> int:
        """The most slots that fit into so many bytes, with index and policy for just these."""
        return _most(limit_bytes // self.row_bytes, lambda slots: self.bytes_at(slots, slots) <= limit_bytes)

    def plan_for(self, slots: int) -> int:
        """For how many slots index and policy are made where so many are committed."""
        if not slots:
            return 0
        plan = max(self.capacity, slots)
        while plan > _LEAST_PLAN and (plan + 1) // 2 >= slots:
            plan = (plan + 1) // 2
        return plan

    def replan(self, plan: int) -> None:
        """Make index and policy anew for `plan` slots; what finds no place in the table goes."""
        self.plan = plan
        self.table = Table(plan)
        lost = [slots[~self.table.insert(self.lanes["key"], slots)] for slots in self.occupied()]
        self.policy.resize(self.lanes, plan)
        for slots in lost:
            if len(slots):
                self._set_free(slots)
                self.policy.forget()
        self.used_bytes = self.bytes_at(self.committed, plan)

    def resize(self, limit_bytes: int) -> None:
        """Take another limit; nobody is writing. What is above it is given back by whoever calls this.

        More slots than were reserved move the lanes to a larger mapping.
        """
        self.capacity = self.slots_within(limit_bytes)
        if self.capacity > self.lanes.capacity:
            self.epoch += 1
            self.lanes = self.lanes.moved(self.capacity, self.top)
            self.policy.resize(self.lanes, max(self.plan, 1))

    def occupied(self) -> list[Slots]:
        """All slots with an entry, in blocks, ascending."""
        blocks = []
        for start in range(0, self.top, BLOCK):
            queue = self.lanes["state"][start : min(start + BLOCK, self.top)] & np.uint8(QUEUE)
            blocks.append(((queue != FREE) & (queue != WRITING)).nonzero()[0] + start)
        return blocks

    # --- reading ----------------------------------------------------------------------------------------------------

    def look_up(self, keys: Keys) -> Seen:
        """Find keys, shape (n, 2), and tell the policy which were hit."""
        found = self.table.find(self.lanes["key"], keys)
        hit = found >= 0
        slots = found if hit.all() else found[hit]
        self.policy.touch(slots)
        self.activity += len(keys)
        return Seen(hit, slots, self.lanes["version"][slots], self.lanes, self.epoch)

    @staticmethod
    def gather(seen: Seen) -> Rows:
        """The rows found, shape (hits, row_bytes). Runs without a lock; see the module."""
        rows: Rows = seen.lanes["row"].take(seen.slots, axis=0)
        return rows

    def intact(self, seen: Seen) -> npt.NDArray[np.bool_] | None:
        """Which of the rows gathered are what was looked up; None: all."""
        if self.epoch != seen.epoch:
            return np.zeros(len(seen.slots), bool)
        same: npt.NDArray[np.bool_] = seen.lanes["version"][seen.slots] == seen.versions
        return None if same.all() else same

    # --- writing ----------------------------------------------------------------------------------------------------

    def allocate(self, wanted: int) -> Slots:
        """Up to `wanted` slots to be written: free ones, new ones where there is room, else those of evicted entries.

        `writers` counts whoever has such slots: while there are any, nothing is moved.
        """
        self.activity += wanted
        parts: list[Slots] = []
        missing = wanted
        while missing > 0:
            slots = self._take_free(missing)
            if not len(slots) and not self._grow(missing) and not self._evict(missing):
                break
            self.lanes["state"][slots] = WRITING
            parts.append(slots)
            missing -= len(slots)
        self.rejected += missing
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def write(self, slots: Slots, rows: Rows) -> None:
        """Fill allocated slots. Runs without a lock: nobody else knows these slots."""
        self.lanes["row"][slots] = rows

    def publish(
        self,
        slots: Slots,
        keys: Keys,
        codes: npt.NDArray[np.uint8],
        classes: npt.NDArray[np.uint8],
        *,
        space: int,
    ) -> int:
        """Make written slots findable under distinct keys that are not in the region; how many were."""
        lanes = self.lanes
        lanes["key"][slots], lanes["cost"][slots] = keys, codes
        lanes["space"][slots], lanes["born"][slots] = space, self.now_s
        placed = self.table.insert(lanes["key"], slots)
        if not placed.all():
            self.abandon(slots[~placed])
            self.rejected += int((~placed).sum())
            slots, keys, classes = slots[placed], keys[placed], classes[placed]
        self.policy.admit(slots, keys, classes)
        self.entries += len(slots)
        self.publications += 1
        return len(slots)

    def abandon(self, slots: Slots) -> None:
        """Give back allocated slots that were not published."""
        self.lanes["state"][slots] = FREE
        self._keep_free(slots)

    def overwrite(self, slots: Slots, rows: Rows) -> None:
        """Put other rows in the place of entries that are there. Those that are the same are left alone."""
        differ = (self.lanes["row"][slots] != rows).any(axis=1)
        slots = slots[differ]
        self.lanes["version"][slots] += np.uint16(1)
        self.lanes["row"][slots] = rows[differ]

    def discard(self, slots: Slots, *, indexed: bool = True) -> None:
        """Take entries out, which the policy has forgotten or will be told to forget; their slots are free then.

        Where the index is about to be made anew (`replan`), they need not be taken out of it.
        """
        if indexed:
            self.table.remove(self.lanes["key"], slots)
        self._set_free(slots)

    def seconds_there(self) -> tuple[float, float]:
        """How long the oldest entry has been there, and how long entries have on average; 0 where there is none."""
        oldest, total = 0.0, 0.0
        for slots in self.occupied():
            if len(slots):
                ages = self.now_s - self.lanes["born"][slots].astype(np.float64)
                oldest, total = max(oldest, float(ages.max())), total + float(ages.sum())
        return oldest, total / max(self.entries, 1)

    # --- slots ------------------------------------------------------------------------------------------------------

    def _take_free(self, wanted: int) -> Slots:
        if not len(self._free) and self._hidden:
            states = self.lanes["state"][: self.top]
            for start in range(0, self.top, BLOCK):
                self._free = ((states[start : start + BLOCK] & np.uint8(QUEUE)) == FREE).nonzero()[0] + start
                if len(self._free):
                    break
            self._hidden -= len(self._free)
        if len(self._free):
            slots, self._free = self._free[:wanted], self._free[wanted:]
            return slots
        slots = np.arange(self.top, min(self.top + wanted, self.committed))
        self.top += len(slots)
        return slots

    def _grow(self, wanted: int) -> bool:
        """Commit more slots, as far as there is room."""
        if self.committed >= self.capacity:
            return False
        step = max(wanted, min(self.committed // 2, _STEP_BYTES // self.row_bytes))
        most = min(self.capacity, self.committed + step)
        moving_bytes = self._policy_class.bytes_for(self.plan) if self.plan else 0

        def extra_bytes(slots: int) -> int:
            plan = max(self.plan, self.plan_for(slots))
            # While the policy's queues are poured into larger ones, both are there.
            return self.bytes_at(slots, plan) - self.used_bytes + (moving_bytes if plan > self.plan else 0)

        room_bytes = self._room(self, extra_bytes(most))
        more = _most(most - self.committed, lambda count: extra_bytes(self.committed + count) <= room_bytes)
        if not more:
            return False
        self.committed += more
        plan = self.plan_for(self.committed)
        if plan > self.plan:
            self.replan(plan)
        self.used_bytes = self.bytes_at(self.committed, self.plan)
        return True

    def _evict(self, wanted: int) -> bool:
        """Free at least `wanted` slots where there are so many entries, and a batch of them at least."""
        if not self.entries:
            return False
        count = max(wanted, min(self.entries // _BATCH, _MOST_BATCH))
        slots = self.policy.evict(count, self.lanes["key"])
        if not len(slots):
            return False
        age_s = self.now_s - float(self.lanes["born"][slots].astype(np.float64).mean())
        self.evicted_age_s += _AGE_WEIGHT * (age_s - self.evicted_age_s) if self.evicted else age_s
        self.discard(slots)
        self.evicted += len(slots)
        return True

    def _set_free(self, slots: Slots) -> None:
        self.lanes["version"][slots] += np.uint16(1)
        self.lanes["state"][slots] = FREE
        self.entries -= len(slots)
        self._keep_free(slots)

    def _keep_free(self, slots: Slots) -> None:
        if len(self._free) < BLOCK and not self._hidden and len(slots) <= BLOCK:
            self._free = np.concatenate((self._free, slots))
        else:
            self._hidden += len(slots)

    def forget_free(self) -> None:
        """After slots were moved: free ones are found by their state from now on."""
        self._free = np.empty(0, np.int64)
        self._hidden = self.top - self.entries


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 0 to `high` that fits, where smaller ones fit if larger ones do."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low

"""The cache's first level: keys to rows, and the one lock around it.

The lock is held to find slots, to choose who goes and to book changes. Rows are copied out and in without it: who
copied out asks afterwards whether the rows were still the same (`Region.intact`), who copies in has slots that nobody
else knows, and is counted in `Region.writers` until they are published. What moves slots (`alone`) waits until nobody
writes; new writers wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embank.cache.budget import Budget
from embank.cache.codec import Float32, Rows
from embank.cache.costs import SECONDS, Costs, cost_code
from embank.cache.keys import Keys
from embank.cache.policies.policy import Slots
from embank.cache.region import Region, Seen
from embank.cache.spaces import Space, Spaces
from embank.system.clock import Clock

Found = npt.NDArray[np.bool_]

_SECONDS = SECONDS.tolist()


class Worth(NamedTuple):
    """What entries cost: code and class of each (see `Costs.codes`)."""

    codes: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]

    def of(self, which: Slots | slice) -> Worth:
        return Worth(self.codes[which], self.classes[which])


class FirstLevel:
    """See the module. Thread-safe, except for what says that it wants the lock held."""

    def __init__(self, budget: Budget, dtype: str, clock: Clock) -> None:
        self.lock = threading.Lock()
        self.budget = budget
        self.spaces = Spaces(budget, dtype)
        self.costs = Costs()
        self.hits = self.misses = self.inserted = self.overwritten = 0
        self.saved_s = 0.0
        self.closed = False
        """Nothing is kept any more."""
        self._calm = threading.Condition(self.lock)
        self._moving = 0
        """Threads that are at, or wait for, what nobody may write during."""
        self._clock = clock
        self._began_s = clock.monotonic()

    # --- out --------------------------------------------------------------------------------------------------------

    def get(self, space: Space, keys: Keys) -> tuple[Float32, Found]:
        """Vectors, shape (n, dimension), and which of the n keys were found; the other rows are zeros."""
        region = space.region
        with self.lock:
            seen = region.look_up(keys)
            self._book(space, keys, seen)
        rows = region.gather(seen)
        hit = seen.hit
        intact = region.intact(seen)
        if intact is not None:
            hit, rows = self._again(region, keys, seen, rows, intact)
        if len(rows) == len(keys):
            return space.codec.decode(rows), hit
        vectors = np.zeros((len(keys), space.codec.dimension), np.float32)
        vectors[hit] = space.codec.decode(rows)
        return vectors, hit

    def get_one(self, space: Space, digest: bytes) -> Float32 | None:
        """The same for one key, in a fifth of the time: shape (1, dimension), or None."""
        region = space.region
        with self.lock:
            region.activity += 1
            if self.budget.shadow is not None:
                self.budget.shadow.ask_one(digest, space.entry_bytes)
            lanes, epoch = region.lanes, region.epoch
            slot = region.table.find_one(lanes.raw("key"), digest)
            if slot < 0:
                self.misses += 1
                return None
            region.policy.touch_one(slot)
            version = lanes.single("version")[slot]
            self.hits += 1
            if self.costs.rate_s is not None:
                self.saved_s += _SECONDS[lanes.single("cost")[slot]]
        vector = space.codec.decode(lanes["row"][slot : slot + 1])
        if region.epoch == epoch and lanes.single("version")[slot] == version:
            return vector
        with self.lock:
            self.hits -= 1  # it was replaced while it was read, and is looked up once more
        vectors, found = self.get(space, np.frombuffer(digest, "<u8").reshape(1, 2))
        return vectors if found[0] else None

    def _again(self, region: Region, keys: Keys, seen: Seen, rows: Rows, intact: Found) -> tuple[Found, Rows]:
        """Look up once more what was replaced or moved while it was read; what is not whole then is a miss."""
        torn = seen.hit.nonzero()[0][~intact]
        with self.lock:
            again = region.look_up(keys[torn])
        more = region.gather(again)
        whole = region.intact(again)
        if whole is not None:
            more = more[whole]
            again.hit[again.hit.nonzero()[0][~whole]] = False
        hit = seen.hit.copy()
        hit[torn[~again.hit]] = False
        lost = len(torn) - len(more)
        if lost:
            with self.lock:
                self.hits -= lost
                self.misses += lost
        out = np.empty((int(hit.sum()), region.row_bytes), np.uint8)
        place = np.cumsum(hit) - 1
        out[place[seen.hit.nonzero()[0][intact]]] = rows[intact]
        out[place[torn[again.hit]]] = more
        return hit, out

    def _book(self, space: Space, keys: Keys, seen: Seen) -> None:
        hits = len(seen.slots)
        self.hits += hits
        self.misses += len(keys) - hits
        if self.costs.rate_s is not None and hits:
            self.saved_s += float(SECONDS[seen.lanes["cost"][seen.slots]].sum())
        if self.budget.shadow is not None:
            self.budget.shadow.ask(keys, space.entry_bytes)

    def missed(self, count: int) -> None:
        """So many texts were asked for of a space that nothing is known of."""
        with self.lock:
            self.misses += count

    def figures(self) -> dict[str, Any]:
        """The fields of `CacheStats` that are the first level's."""
        with self.lock:
            regions = list(self.budget.regions.values())
            now_s = self.now_s()
            for region in regions:
                region.now_s = now_s
            ages = [region.seconds_there() for region in regions]
            entries = sum(region.entries for region in regions)
            weighed = zip(regions, ages, strict=True)
            shadow = self.budget.shadow
            return {
                "hits": self.hits,
                "misses": self.misses,
                "inserted": self.inserted,
                "overwritten": self.overwritten,
                "evictions": sum(region.evicted for region in regions),
                "rejected": sum(region.rejected for region in regions),
                "entries": entries,
                "hit_rate": self.hits / max(self.hits + self.misses, 1),
                "lru_hit_rate": 0.0 if shadow is None else shadow.hit_rate,
                "seconds_saved": self.saved_s,
                "oldest_age_s": max((oldest for oldest, _ in ages), default=0.0),
                "mean_age_s": sum(mean * region.entries for region, (_, mean) in weighed) / max(entries, 1),
                "evicted_age_s": max((region.evicted_age_s for region in regions), default=0.0),
            }

    # --- in ---------------------------------------------------------------------------------------------------------

    def learn(self, name: str, dimension: int) -> Space:
        """The space of that name; see `Spaces.learn`."""
        with self.lock:
            if not self.spaces.is_full(name):
                return self.spaces.learn(name, dimension)
        with self.alone():
            return self.spaces.learn(name, dimension)

    def weigh(self, weights: npt.NDArray[np.float64], seconds: float | None) -> Worth:
        """What texts of these weights are worth; a measurement is taken into the rate."""
        with self.lock:
            return Worth(*self.costs.codes(self.costs.measure(weights, seconds)))

    def average(self, count: int, step: int) -> Iterator[tuple[int, Worth]]:
        """Pieces of up to `step` out of `count` entries of which nothing is known: where each starts, and its worth."""
        for start in range(0, count, step):
            some = min(step, count - start)
            code = cost_code(self.costs.mean_s)
            yield start, Worth(np.full(some, code, np.uint8), np.zeros(some, np.uint8))

    def put(self, space: Space, keys: Keys, rows: Rows, worth: Worth, *, number: int | None = None) -> int:
        """Keep encoded rows under distinct keys; how many of them were new and found room.

        `number` stands for the space's where the entries may belong to another space of this width.
        """
        region = space.region
        with self.lock:
            self._calm.wait_for(lambda: not self._moving)
            if self.closed or self.spaces.get(space.name) is not space:
                return 0  # meanwhile the cache was closed, or the space's number given to another
            region.now_s = self.now_s()
            slots = region.table.find(region.lanes["key"], keys)
            there = slots >= 0
            if there.any():
                region.overwrite(slots[there], rows[there])
                self.overwritten += int(there.sum())
            new = (~there).nonzero()[0]
            taken = region.allocate(len(new))
            # Where there is not room for all, the last ones stay: they are what was used last.
            new = new[len(new) - len(taken) :]
            if not len(new):
                return 0
            region.writers += 1
            known = region.publications
        added = written = 0
        try:
            region.write(taken, rows[new])
            written = len(taken)
        finally:
            with self.lock:
                if region.publications != known and written:
                    taken, new = self._not_there_yet(region, keys, taken, new)
                if written:
                    mark = space.number if number is None else number
                    added = region.publish(taken, keys[new], *worth.of(new), space=mark)
                else:
                    region.abandon(taken)
                self.inserted += added
                region.writers -= 1
                self._calm.notify_all()
        return added

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock while nobody writes."""
        with self.lock:
            self._moving += 1
            try:
                self._calm.wait_for(lambda: not any(region.writers for region in self.budget.regions.values()))
                yield
            finally:
                self._moving -= 1
                self._calm.notify_all()

    @staticmethod
    def _not_there_yet(region: Region, keys: Keys, taken: Slots, new: Slots) -> tuple[Slots, Slots]:
        """Without those that another thread published meanwhile; of one text there is one vector, so its is as good."""
        absent = region.table.find(region.lanes["key"], keys[new]) < 0
        region.abandon(taken[~absent])
        return taken[absent], new[absent]

    def now_s(self) -> int:
        """Whole seconds since the cache began."""
        return max(int(self._clock.monotonic() - self._began_s), 0)

"""What a policy is: it is told what comes and what is hit, and says which slots go.

The slots' own state lies in lanes that the cache keeps (`Lanes`), so that it moves with them: every policy has the lane
`state`, one byte a slot, and may ask for more with `FIELDS`. What else a policy keeps (queues, fingerprints of what
went) it sizes for `slots` and counts in `bytes_for`.

    bit   7   6 5     4 3    2 1 0
              queue   class  hits      queue 0: the slot is free; 3: it is being written and belongs to no queue

*Class* is how much more an entry costs to compute than the average did: 0 up to twice as much, 1 from twice, 2 from
four times, 3 from eight times on.

Policies are called with the cache's lock held, always with whole batches; slots of one call are distinct, except in
`touch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from embank.cache.keys import Keys
from embank.cache.slab import Lanes

Slots = npt.NDArray[np.int64]

HITS = 0b111
CLASS_SHIFT = 3
QUEUE = 0b1100000
FREE = 0
FIRST = 0b0100000
SECOND = 0b1000000
WRITING = 0b1100000


class Policy(Protocol):
    """See the module."""

    FIELDS: ClassVar[Mapping[str, tuple[str, int]]]
    """Lanes beside `state`: name -> (dtype, items a slot)."""

    @staticmethod
    def bytes_for(slots: int) -> int:
        """What it holds beyond its lanes, for so many slots."""
        ...

    def __init__(self, lanes: Lanes, slots: int) -> None: ...

    def resize(self, lanes: Lanes, slots: int) -> None:
        """Go on over these lanes and for so many slots, keeping the order as far as it fits."""
        ...

    def touch(self, slots: Slots) -> None:
        """These were asked for; some perhaps more than once."""
        ...

    def touch_one(self, slot: int) -> None: ...

    def admit(self, slots: Slots, keys: Keys, classes: npt.NDArray[np.uint8]) -> None:
        """These were written: their state is the policy's from here on. `keys` are theirs, (n, 2)."""
        ...

    def evict(self, wanted: int, keys: Keys) -> Slots:
        """Up to `wanted` slots to be freed, no longer in any order here; fewer where there are no more.

        `keys` are the keys of all slots, by slot.
        """
        ...

    def forget(self) -> None:
        """Drop from the order every slot whose state says that it is free."""
        ...

    def renumber(self, least: int, slots: Slots, become: Slots) -> None:
        """Slots from `least` on are gone, except `slots` (ascending), which are called `become` now."""
        ...

    def worth(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """How much the slots `start` … `stop` - 1 are worth, against each other; of free ones, anything."""
        ...


def table_of(function: Any) -> npt.NDArray[np.uint8]:
    """What `function` makes of each of the 256 states."""
    return np.array([function(state) for state in range(256)], np.uint8)

"""The spaces that a cache has met: name, dimension, and the region where its rows are.

A space is a model's fingerprint: vectors of two spaces never answer for each other. Entries carry their space's number,
one byte, so that one space can be cleared; number 0 is for entries that came from a second level before anybody asked,
of which only the key is known. There are at most 255 spaces: the next one takes the number of the one that was written
to longest ago, whose entries go. Not thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from embank.cache.budget import Budget, entry_bytes
from embank.cache.codec import Codec
from embank.cache.region import Region
from embank.cache.shrink import clear_space
from embank.errors import InvalidInput

MOST = 255
MOST_DIMENSIONS = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """One of them. `entry_bytes` is what an entry takes, bookkeeping included."""

    name: str
    number: int
    codec: Codec
    region: Region
    entry_bytes: int


class Spaces:
    """See the module."""

    def __init__(self, budget: Budget, dtype: str) -> None:
        self._budget = budget
        self._dtype = dtype
        self._spaces: OrderedDict[str, Space] = OrderedDict()
        self.get = self._spaces.get

    def learn(self, name: str, dimension: int) -> Space:
        """The space, made where it is not there. Raises `InvalidInput` where it has another dimension."""
        space = self._spaces.get(name)
        if space is not None:
            if space.codec.dimension != dimension:
                raise InvalidInput(
                    f"vectors of space {name!r} have {space.codec.dimension} dimensions, not {dimension}",
                    space=name,
                    dimension=dimension,
                )
            self._spaces.move_to_end(name)
            return space
        if not 0 < dimension <= MOST_DIMENSIONS:
            raise InvalidInput(f"a vector has 1 to {MOST_DIMENSIONS} dimensions, not {dimension}", dimension=dimension)
        codec = Codec(self._dtype, dimension)
        region = self._budget.region(codec.row_bytes)
        space = Space(name, self._number(), codec, region, entry_bytes(region))
        self._spaces[name] = space
        return space

    def is_full(self, name: str) -> bool:
        """Whether learning this one would take another's number: then nobody may be writing."""
        return name not in self._spaces and len(self._spaces) >= MOST

    def _number(self) -> int:
        if len(self._spaces) < MOST:
            taken = {space.number for space in self._spaces.values()}
            return next(number for number in range(1, MOST + 1) if number not in taken)
        _, oldest = self._spaces.popitem(last=False)
        if any(space.region is oldest.region for space in self._spaces.values()):
            clear_space(oldest.region, {oldest.number})
        else:
            self._budget.retire(oldest.region)
        return oldest.number

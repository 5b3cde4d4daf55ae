"""One limit over all regions of a cache: who may grow, by how much, and who gives way.

There is one region for each width of rows, and mostly one region. Where there are several, the one that wants to grow
takes bytes from the one whose bytes are used least of late (look-ups and insertions a byte, decayed), if that is not
itself; so a model that nobody asks any more hands its memory over to its successor. With a governor, growing also needs
its consent: bytes that are free now, within the cache's allotment. Without consent a region stays as it is and evicts.

Not thread-safe: called with the cache's lock held. Calls the governor, which calls no consumer but for `used_bytes`.
"""

from __future__ import annotations

from embank.cache.allotment import allotment
from embank.cache.policies.policy import Policy
from embank.cache.region import Region
from embank.cache.shadow import PART, Shadow
from embank.cache.shrink import empty, shrink_to_bytes
from embank.memory.governor import Governor
from embank.system.clock import Clock

OBJECTS_BYTES = 16 << 10
"""The cache's own objects, ready hashers and lists of free slots, beside arrays."""
_ASK_AGAIN_S = 0.25
"""After the governor had nothing, it is left alone for so long: asking it reads the kernel's figures."""
_HANDED_BYTES = 1 << 20
"""What one region takes from another at a time, at least."""
_FORGETTING = 1 << 17
"""After so many look-ups and insertions, what was counted before counts half."""


class Budget:
    """See the module."""

    def __init__(self, limit_bytes: int, policy: type[Policy], governor: Governor | None, clock: Clock) -> None:
        self.limit_bytes = limit_bytes
        self.regions: dict[int, Region] = {}
        self.shadow: Shadow | None = None
        self._policy = policy
        self._governor = governor
        self._clock = clock
        self._ask_at_s = 0.0

    def used_bytes(self) -> int:
        """What the cache holds. May be called without the lock."""
        held = sum(region.used_bytes for region in tuple(self.regions.values()))
        shadow = self.shadow
        held += 0 if shadow is None else shadow.used_bytes()
        return held + OBJECTS_BYTES if held else 0

    def region(self, row_bytes: int) -> Region:
        """The region for rows of this width, made where it is not there."""
        region = self.regions.get(row_bytes)
        if region is None:
            region = Region(row_bytes, self._policy, limit_bytes=self._for_regions(), room=self._room)
            self.regions[row_bytes] = region
            if self.shadow is None:
                self.shadow = Shadow(self.limit_bytes, entry_bytes(region))
        return region

    def retire(self, region: Region) -> None:
        """Nobody has rows of this width any more. Nobody is writing."""
        empty(region)
        self.regions.pop(region.row_bytes, None)

    def set_limit(self, limit_bytes: int) -> int:
        """Another limit; the bytes freed where that is less than is held. Nobody is writing."""
        self.limit_bytes = limit_bytes
        if self.shadow is not None:
            self.shadow.resize(limit_bytes)
        held = sum(region.used_bytes for region in self.regions.values())
        for region in self.regions.values():
            region.resize(self._for_regions())
        freed_bytes = self.release(held - self._for_regions())
        self._ask_at_s = 0.0
        return freed_bytes

    def release(self, wanted_bytes: int) -> int:
        """Give back so many bytes, where there are as many, the least used regions' first. Nobody is writing."""
        freed_bytes = 0
        for region in sorted(self.regions.values(), key=_density):
            missing = wanted_bytes - freed_bytes
            if missing <= 0:
                break
            freed_bytes += shrink_to_bytes(region, region.used_bytes - missing)
        held = sum(region.used_bytes for region in self.regions.values())
        if self.shadow is not None and not held:
            freed_bytes += self.shadow.used_bytes()
            self.shadow.clear()
        return freed_bytes

    def clear(self) -> int:
        """Give everything back; the bytes freed. Nobody is writing."""
        freed_bytes = sum(empty(region) for region in self.regions.values())
        if self.shadow is not None:
            freed_bytes += self.shadow.used_bytes()
            self.shadow.clear()
        return freed_bytes

    def _for_regions(self) -> int:
        return max(self.limit_bytes - OBJECTS_BYTES - self.limit_bytes // PART, 0)

    def _room(self, region: Region, wanted_bytes: int) -> int:
        """How many bytes this region may take now; at most what it wants."""
        self._forget()
        room_bytes = self._left()
        if room_bytes < wanted_bytes and len(self.regions) > 1:
            self._take_from_others(region, wanted_bytes - room_bytes)
            room_bytes = self._left()
        return min(wanted_bytes, room_bytes, self._consented(wanted_bytes))

    def _left(self) -> int:
        return self._for_regions() - sum(region.used_bytes for region in self.regions.values())

    def _take_from_others(self, region: Region, wanted_bytes: int) -> None:
        donor = min(self.regions.values(), key=_density)
        if donor is region or donor.writers or not donor.used_bytes:
            return
        shrink_to_bytes(donor, donor.used_bytes - max(wanted_bytes, _HANDED_BYTES))

    def _consented(self, wanted_bytes: int) -> int:
        if self._governor is None:
            return wanted_bytes
        now_s = self._clock.monotonic()
        if now_s < self._ask_at_s:
            return 0
        used_bytes = self.used_bytes()
        allotted_bytes = allotment(self._governor, used_bytes=used_bytes) - used_bytes
        bytes_free = max(min(allotted_bytes, self._governor.available_bytes()), 0)
        if bytes_free < wanted_bytes:
            self._ask_at_s = now_s + _ASK_AGAIN_S
        return bytes_free

    def _forget(self) -> None:
        if sum(region.activity for region in self.regions.values()) > _FORGETTING:
            for region in self.regions.values():
                region.activity /= 2


def entry_bytes(region: Region) -> int:
    """What an entry of this region takes, bookkeeping included, at the limit."""
    slots = max(region.capacity, 1)
    return -(-region.bytes_at(slots, slots) // slots)


def _density(region: Region) -> float:
    return region.activity / max(region.used_bytes, 1)

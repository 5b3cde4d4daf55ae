"""What happens to caches."""

from __future__ import annotations

from dataclasses import dataclass

from embank.events.event import Event


@dataclass(frozen=True, slots=True)
class CacheShrunk(Event):
    """A cache gave memory back, because it was asked to (`release`) or because its limit was lowered (`limit`)."""

    cache: str
    reason: str
    wanted_bytes: int
    freed_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CacheCleared(Event):
    """Somebody cleared a cache, or one space of it (`space` is empty where it was all)."""

    cache: str
    space: str
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class CacheWarmed(Event):
    """Entries came from the second level before anybody asked for them."""

    cache: str
    entries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SecondLevelOpened(Event):
    """A cache's second level failed several times in a row, last in `call`, and is left alone for a while."""

    cache: str
    call: str


@dataclass(frozen=True, slots=True)
class SecondLevelClosed(Event):
    """A cache's second level, which was left alone, answers again."""

    cache: str

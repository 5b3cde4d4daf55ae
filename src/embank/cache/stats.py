"""What a cache says of itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SecondStats:
    """A second level's own figures. `errors` counts calls that failed; each was a miss."""

    name: str
    entries: int
    bytes: int
    hits: int
    misses: int
    errors: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """An embedding cache at one moment. Counters are exact, and since the cache began.

    `hits` and `misses` are of the first level, one a text; `second_hits` of those misses the second level had.
    `rejected` entries found no room. `lru_hit_rate` is what plain LRU in the same bytes would have had, told from a
    sample. `seconds_saved` is what hits would have cost to compute, as far as that was ever measured. Ages are in
    seconds: of the oldest entry, of all on average, and of those evicted of late when they went.
    `second_state` is closed (in use), open (left alone after failures) or half-open (being tried).
    """

    policy: str
    dtype: str
    hits: int
    misses: int
    inserted: int
    overwritten: int
    evictions: int
    rejected: int
    entries: int
    used_bytes: int
    limit_bytes: int
    hit_rate: float
    lru_hit_rate: float
    seconds_saved: float
    oldest_age_s: float
    mean_age_s: float
    evicted_age_s: float
    second_hits: int
    second_state: str | None
    second_errors: int
    second: SecondStats | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values."""
        return dataclasses.asdict(self)

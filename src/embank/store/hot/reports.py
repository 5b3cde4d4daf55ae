"""What the hot tier holds and what making it anew did, or would do, as facts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from embank.store.hot.counts import Counted
from embank.store.hot.settings import Answers
from embank.store.hot.tier import Searched


@dataclass(frozen=True, slots=True)
class HotStatus:
    """What is counted in a collection, and what its tier holds. `at` is `None` where there is no tier.

    `accesses` were counted, of `counted` documents; one that is not among them had at most `uncounted_most`. `behind`
    is how many changes the collection had since the tier was made. `searched` says with what: "annoy", or "scan".
    `reason` says why a tier that was kept can't be used.
    """

    collection: str
    accesses: int
    counted: int
    counters: int
    uncounted_most: int
    answers: Answers
    at: float | None
    documents: int
    rows: int
    bytes: int
    sequence: int
    behind: int
    searched: Searched | None
    loaded: bool
    reason: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(slots=True)
class HotReport:
    """What making the tier anew did, or would do. `outcome`: "rebuilt", "would rebuild" or "nothing to do".

    `documents` with their `rows` (passages) come in, `bytes` on the disk (estimated where nothing was done).
    `too_large` documents were read more than the last of them and have more passages than there was room for; `gone`
    ones were counted and are deleted. `coolest` is the last that came in. `copied` rows are done.
    """

    collection: str
    outcome: str
    documents: int = 0
    rows: int = 0
    bytes: int = 0
    accesses: int = 0
    too_large: int = 0
    gone: int = 0
    coolest: Counted | None = None
    searched: Searched | None = None
    sequence: int = 0
    copied: int = 0
    seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """How much is copied, 0 to 1."""
        return self.copied / self.rows if self.rows else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "fraction": self.fraction}

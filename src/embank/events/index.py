"""What happens to vector indexes."""

from __future__ import annotations

from dataclasses import dataclass

from embank.events.event import Event


@dataclass(frozen=True, slots=True)
class IndexProbed(Event):
    """An index was asked about the newest `recent_rows` rows, and held against the exact scan.

    `recall` is recall@10 over `questions`, with its 95 % interval; `error` and `fresh_error` how far its codes are off,
    now and when it was trained, as a share.
    """

    collection: str
    method: str
    rows: int
    recent_rows: int
    questions: int
    recall: float
    recall_low: float
    recall_high: float
    error: float | None
    fresh_error: float | None


@dataclass(frozen=True, slots=True)
class IndexDrifted(Event):
    """An index no longer finds what it should among new rows, for which reason it is made anew."""

    collection: str
    method: str
    rows: int
    reason: str

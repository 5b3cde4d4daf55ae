"""Wire types of what the service tells of itself: memory, caches, health, and acts on record."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from embank.client.schemas import Answer


class MemoryAnswer(Answer):
    """Where memory stands against the budget; more than these fields comes along."""

    budget_bytes: int
    real_bytes: int
    managed_bytes: int
    reserved_bytes: int
    available_bytes: int
    floor_bytes: int
    pressure: float
    rung: str | None
    consumers: dict[str, int]

    model_config = ConfigDict(extra="allow")


class CacheAnswer(Answer):
    """What the caches hold and how often they were right; `None` where one is turned off."""

    embeddings: dict[str, Any] | None = None
    results: dict[str, Any] | None = None
    disk_limit_bytes: int | None = None


class ReleaseAnswer(Answer):
    """Bytes of memory given back, as measured."""

    freed_bytes: int


class CheckAnswer(Answer):
    """One thing that was looked at."""

    name: str
    ok: bool
    seconds: float
    detail: str = ""


class HealthAnswer(Answer):
    """Whether the service does what it is there for; `reasons` say what is wrong."""

    status: Literal["ok", "not ready", "failing"]
    reasons: list[str] = Field(default_factory=list)
    checks: list[CheckAnswer] = Field(default_factory=list)


class ProofAnswer(Answer):
    """What follows from a number used once and the secret of the server's start."""

    proof: str


class AuditAnswer(Answer):
    """One act on record."""

    at: float
    act: str
    collection: str | None
    detail: dict[str, Any]


class AuditsAnswer(Answer):
    """Acts on record, the newest first."""

    acts: list[AuditAnswer]

"""The `cache` section of the settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from embank.config import Section, Size

LEAST_DISK_BYTES = 1 << 20


class Settings(Section):
    """What is kept of what was computed, and where."""

    enabled: bool = Field(default=True, description="keep embeddings, so that the same text is computed once")
    limit: Size = Field(
        default=Size("100MB"),
        description="the most that the embedding cache holds in memory, bookkeeping included; less where the budget "
        "has no room for it",
    )
    policy: Literal["s3fifo", "lru"] = Field(
        default="s3fifo",
        description="what goes first when it is full: s3fifo keeps what is used again from what is used once (a bulk "
        "ingest flushes nothing), lru is plain least recent use",
    )
    dtype: Literal["float16", "int8", "float32"] = Field(
        default="float16", description="how a vector is kept: float16, int8 (half of it) or float32 (twice, exact)"
    )
    disk: bool = Field(default=False, description="keep embeddings on disk, too, so that they survive a restart")
    disk_limit: Size = Field(default=Size("1GB"), description="the most that the embeddings on disk take")
    results: bool = Field(
        default=True, description="keep answers to searches until their collection changes, so that they are found once"
    )
    results_limit: Size = Field(default=Size("8MB"), description="the most that answers to searches take in memory")

    @field_validator("disk_limit")
    @classmethod
    def _enough_disk(cls, value: Size) -> Size:
        if value.count_bytes is None or value.count_bytes < LEAST_DISK_BYTES:
            raise ValueError(f"{value} is no number of bytes, {LEAST_DISK_BYTES} at least")
        return value

"""Settings of the hot tier."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embank.config import Section, Size
from embank.store.info import SEGMENT_ROWS

Answers = Literal["never", "when_degraded"]


class Settings(Section):
    """What is counted, how much of it the tier copies, and whether searches may be answered from it."""

    counters: int = Field(
        default=4_096, ge=0, le=262_144, description="documents whose accesses are counted, at most; 0: none are"
    )
    save_every: int = Field(
        default=10_000, ge=1, description="the counts are written after so many accesses, and when the bank is closed"
    )
    rows: int = Field(default=4_096, ge=1, le=SEGMENT_ROWS, description="passages that the tier copies, at most")
    budget: Size = Field(default=Size("32MB"), description="what the tier may take on the disk, where it is mapped")
    answers: Answers = Field(
        default="never",
        description="when_degraded: while a collection's index is missing, searches are answered from the tier and say "
        "that they are degraded; never: all vectors are scanned, which takes longer",
    )
    trees: int = Field(default=20, ge=1, le=1_000, description="of the tier's forest, where Annoy is installed")

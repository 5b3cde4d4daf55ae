"""Settings of the store."""

from __future__ import annotations

from pydantic import Field

from embank.config import Section
from embank.store.info import Dtype
from embank.store.words import Language
from embank.system.size import Size


class Settings(Section):
    """What is decided when a collection is made, when its views are brought up to date, and when it is compacted."""

    dtype: Dtype = Field(default="fp16", description="how vectors are stored: fp16, or int8 (half the bytes)")
    lexical_rows: int = Field(
        default=4_096, ge=1, le=65_536, description="the lexical view is committed at least every so many passages"
    )
    lexical_language: Language = Field(
        default="english",
        description="by which the words of new collections are stemmed; none for code and for what is not listed, "
        "trigrams to find any part of a word",
    )
    lexical_titles: tuple[str, ...] = Field(
        default=("title",), description="metadata whose text counts as a title; a change builds lexical views anew"
    )
    lexical_title_boost: float = Field(
        default=1.0, ge=0, le=100, description="what a word in a title counts, beside one in a passage"
    )
    compact_dead: float = Field(
        default=0.5, gt=0, le=1, description="a collection is due for compaction from this share of dead vectors on"
    )
    compact_least: int = Field(
        default=10_000, ge=1, description="and from this number of them on: fewer cost a search next to nothing"
    )
    filter_columns: bool = Field(
        default=True, description="keep the metadata that filters of searches ask for in memory, by key"
    )
    filter_columns_limit: Size = Field(
        default=Size("5%"), description="the most that it takes; a filter that needs more is answered by SQL, slower"
    )
    lexical_writer_bytes: int = Field(
        default=15_000_000, ge=15_000_000, description="heap of the lexical writer; the library's least is 15 MB"
    )

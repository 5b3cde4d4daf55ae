"""Settings of the embedding room."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from embank.config import Section


class Settings(Section):
    """Which model embeds, how exactly, and how much it may compute at once."""

    model: str = Field(default="minilm", min_length=1)
    """A known model's name, or the path of a folder with a model's files."""

    precision: Literal["int8", "float32"] = "int8"
    """int8 is smaller and faster, with a cosine of 0.99 and more to the original; float32 gives its own values."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Batches computed at the same time, one thread each; empty: as many as this process may use CPUs."""

    padded_tokens: int = Field(default=1024, ge=16, le=1 << 20)
    """Tokens computed at once, padding included, shared out over the threads; a batch has 256 to 384 of them."""

    dimensions: int | None = Field(default=None, ge=1)
    """Keep this many of a vector's dimensions, where the model was trained for that; empty: all."""

    directory: Path | None = None
    """Where converted and downloaded models are kept; empty: the user's cache folder."""

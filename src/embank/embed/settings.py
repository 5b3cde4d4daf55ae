"""What can be set about embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from embank.config import Section


class Settings(Section):
    """Section `embed`."""

    model: str = Field(default="minilm", min_length=1, description="a known model's name, or the path of a model's folder")
    precision: Literal["int8", "float32"] = Field(
        default="int8", description="int8: smaller and faster, cosine 0.99 to the original; float32: the original's values"
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="threads that compute one batch; empty: the CPUs this process may use"
    )
    padded_tokens: int = Field(
        default=1024,
        ge=16,
        le=1 << 20,
        description="a batch's rows times its longest text, in tokens: larger is a little faster and takes more memory",
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="keep this many of the vector's dimensions, where the model was trained for that"
    )
    directory: Path | None = Field(
        default=None, description="where converted and downloaded models are kept; empty: the user's cache folder"
    )

"""Settings of the embedding room."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from embank.config import Section, Size
from embank.embed.device import checked_device
from embank.embed.model import Precision


class Settings(Section):
    """Which model embeds, how exactly, and how much it may compute at once."""

    model: str = Field(default="minilm", min_length=1)
    """A known model's name, the path of a folder with a model's files, or `remote:NAME` for one of the endpoint that
    section `remote` names."""

    engine: str | None = Field(default=None, min_length=1)
    """What computes it: ct2, onnx, openvino, torch, static; auto: the fastest here of sufficient `quality`, measured
    once; empty: the one that the model's files are for."""

    precision: Precision = "int8"
    """int8 is smaller and faster, with a cosine of 0.99 and more to the original; float32 gives its own values."""

    quality: float = Field(default=0.985, gt=0, le=1)
    """The least cosine to the original's vectors that `engine = "auto"` may choose."""

    device: str = "cpu"
    """cpu, cuda (the first), cuda:N, or auto: CUDA where the engine finds some, else cpu."""

    isolation: Literal["thread", "process"] = "thread"
    """Whether the model lives in this process, or in a child that is recycled when it grew, aged or idled."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Batches computed at the same time, one thread each; empty: as many as this process may use CPUs."""

    padded_tokens: int = Field(default=1024, ge=16, le=1 << 20)
    """Tokens computed at once, padding included, shared out over the threads; a batch has 256 to 384 of them."""

    batching: bool = True
    """Texts of similar length are computed together; without, each is computed alone, which takes less memory and
    more time."""

    measured_batches: bool = False
    """The size of a batch is not taken from `padded_tokens`: the best that fits is measured once, and remembered."""

    dimensions: int | None = Field(default=None, ge=1)
    """Keep this many of a vector's dimensions, where the model was trained for that; empty: all."""

    long_texts: Literal["truncate", "split"] = "truncate"
    """Of a text with more tokens than the model takes, the rest is left out (and counted), or it is embedded in pieces
    whose vectors are averaged by their tokens."""

    keep_alive_s: float | None = Field(default=300.0, ge=0)
    """A model that nobody used for so long is let go, and comes back with the next call; empty: never."""

    pinned: tuple[str, ...] = ()
    """Models that stay loaded, however long nobody uses them; memory pressure moves them last."""

    offline: bool = False
    """Nothing is ever downloaded, not even by `embank models pull`, and no text is sent to an endpoint elsewhere."""

    directory_limit: Size | None = None
    """The most that `directory` may hold; `embank models prune` removes what was not used for longest. Empty: none."""

    directory: Path | None = None
    """Where converted and downloaded models are kept; empty: the user's cache folder."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        return checked_device(value)

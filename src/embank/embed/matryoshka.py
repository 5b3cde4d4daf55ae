"""Cutting vectors to their first dimensions, for models that were trained so that these stand for the whole.

Covers which lengths a model may be cut to, and an engine that cuts what another one computes. An engine that computes
no more than is asked for (the static one) cuts by itself. Of other models a cut vector would look fine and be worse:
they are refused by name, and a PCA is the way (`embank.embed.reduce`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from embank.embed.engine import recycle
from embank.embed.formats.folder import read_json
from embank.errors import InvalidInput, ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

    from embank.embed.engine import Encoded, Engine, LoadRequest, TokenIds
    from embank.embed.files.catalog import KnownModel
    from embank.embed.model import Kind, Vectors

_KEY = "matryoshka_dimensions"


def trained_dimensions(known: KnownModel | None, folder: Path | None) -> tuple[int, ...]:
    """The lengths that a model was trained for, longest first: of its catalogue entry, else of its config.json.

    Empty where neither lists any. Raises `ModelFileError` for a list that is none.
    """
    if known is not None:
        return known.dimensions
    if folder is None or not (folder / "config.json").is_file():
        return ()
    listed = read_json(folder / "config.json").get(_KEY) or []
    if not isinstance(listed, list) or not all(type(each) is int and each > 0 for each in listed):
        raise ModelFileError(
            f"{folder / 'config.json'} has the impossible {_KEY} {listed!r}", path=str(folder / "config.json")
        )
    return tuple(sorted(set(listed), reverse=True))


def check_dimensions(request: LoadRequest, whole: int) -> None:
    """Raise `InvalidInput` where the settings ask for a length that a model of `whole` dimensions can't be cut to."""
    wanted = request.settings.dimensions
    trained = [each for each in trained_dimensions(request.known, request.folder) if each < whole]
    if wanted in (None, whole, *trained):
        return
    choices = ", ".join(map(str, (whole, *trained)))
    raise InvalidInput(
        f"the model {request.name!r} was not trained to be cut to {wanted} dimensions: leave embed.dimensions empty, "
        f"or set it to {choices}; `embank reduce fit` makes the vectors of a collection narrower",
        value=wanted,
        dimension=whole,
        trained=trained,
    )


def cut(engine: Engine, request: LoadRequest) -> Engine:
    """`engine`, cut to the dimensions that the request's settings ask for, if it computes more.

    Raises `InvalidInput`, with the engine closed, where the model was not trained for that length.
    """
    wanted = request.settings.dimensions
    if wanted is None or wanted == engine.fingerprint.dimension:
        return engine
    try:
        check_dimensions(request, engine.fingerprint.dimension)
    except BaseException:
        engine.close()
        raise
    return CutEngine(engine, wanted)


class CutEngine:
    """An engine whose vectors end after `dimension` components. Batching normalises them, as any others."""

    def __init__(self, engine: Engine, dimension: int) -> None:
        self._engine = engine
        self._dimension = dimension
        self.fingerprint = replace(engine.fingerprint, dimension=dimension, reduction="matryoshka")

    @property
    def device(self) -> str:
        return self._engine.device

    @property
    def max_tokens(self) -> int:
        return self._engine.max_tokens

    @property
    def batch_tokens(self) -> int:
        return self._engine.batch_tokens

    @property
    def lanes(self) -> int:
        return self._engine.lanes

    @property
    def length_step(self) -> int | None:
        return self._engine.length_step

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        return self._engine.encode(texts, kind)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._engine.count(texts)

    def batch_bytes(self, rows: int, width: int) -> int:
        return self._engine.batch_bytes(rows, width)

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        return np.ascontiguousarray(self._engine.forward(batch)[:, : self._dimension])

    def used_bytes(self) -> int:
        return self._engine.used_bytes()

    def recycle(self, *, room_bytes: int = 0) -> int:
        """See `Recyclable`."""
        return recycle(self._engine, room_bytes=room_bytes)

    def close(self) -> None:
        self._engine.close()

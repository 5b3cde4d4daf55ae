"""Whether a model that was just made computes what the original computes.

Reference vectors are stored in the package, made once with sentence-transformers in float32 (benchmarks/reference.py).
A conversion that went wrong, a runtime that computes wrongly on this processor, or a wrong tokenizer all show here,
and then the model is refused: vectors that are a little wrong are worse than none.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from embank.errors import ModelFileError

if TYPE_CHECKING:
    from embank.embed.model import Precision, Vectors

LEAST_COSINE: dict[Precision, float] = {"int8": 0.985, "float32": 0.9999, "float16": 0.9995, "bfloat16": 0.9995}


def check_against_reference(
    name: str, precision: Precision, embed: Callable[[Sequence[str]], Vectors], *, texts: int | None = None
) -> float | None:
    """The least cosine between what `embed` answers and the stored vectors; None where none are stored for `name`.

    `texts` limits the check to that many. Raises `ModelFileError` when the least is below the precision's bound.
    """
    reference = read_reference(name)
    if reference is None:
        return None
    stored_texts, stored = reference
    answered = embed(stored_texts[:texts])
    cosines = np.einsum("ij,ij->i", answered, stored[:texts])
    least = float(cosines.min())
    if not least >= LEAST_COSINE[precision]:  # a NaN is refused, too
        raise ModelFileError(
            f"the {precision} model made from {name!r} is refused: its vectors agree with the original's to a cosine "
            f"of {least:.4f} only, where {LEAST_COSINE[precision]} is the least",
            name=name,
            cosine=least,
        )
    return least


def read_reference(name: str) -> tuple[list[str], Vectors] | None:
    """Texts and float32 unit vectors, shape (texts, dimension), that the original gave for them."""
    place = resources.files("embank.embed") / "reference" / f"{name}.json"
    if not place.is_file():
        return None
    content = json.loads(place.read_text(encoding="utf-8"))
    flat = np.frombuffer(base64.b64decode(content["vectors"]), dtype="<f4")
    return content["texts"], flat.reshape(len(content["texts"]), content["dimension"])

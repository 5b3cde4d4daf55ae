"""What is asked when ways of keeping vectors are compared: the user's own questions, or ones drawn from passages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from embank.embed.model import Model
from embank.embed.reduce import Float32
from embank.errors import InvalidInput
from embank.store.index.protocol import Slots
from embank.store.snapshot import Snapshot

DRAWN = 200
"""Questions drawn where the user gives none."""

MOST = 10_000

_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s|$)|\n|$)", re.DOTALL)
_MOST_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Questions:
    """`vectors`: float32, L2-normalised, shape (n, dimension). `asked` says what they are. `taken`: slots used up."""

    vectors: Float32 = field(repr=False)
    asked: str
    taken: Slots


def own(questions: Sequence[str], model: Model | None) -> Questions:
    """The user's questions, embedded as queries."""
    listed = [question.strip() for question in questions if question.strip()]
    if not 0 < len(listed) <= MOST:
        raise InvalidInput(f"give 1 to {MOST:,} questions, one a line, not {len(listed):,}", questions=len(listed))
    if model is None:
        raise InvalidInput(
            "the collection holds vectors of your own, so that there is no model to embed questions with: leave the "
            "questions out"
        )
    return Questions(model.embed(listed, "query"), f"{len(listed):,} questions of yours", np.empty(0, np.int64))


def drawn(snapshot: Snapshot, slots: Slots, model: Model | None) -> Questions:
    """The first sentences of the passages at `slots`, embedded as queries; without a model, their very vectors.

    Either flatters, since a question is seldom made of a passage's own words: good for comparing ways, less so for
    the height of a figure.
    """
    if model is None:
        return Questions(
            snapshot.vectors(slots),
            f"the vectors of {len(slots):,} passages, left out of the search (there is no model to embed questions; "
            f"flatters)",
            slots,
        )
    sentences = [first_sentence(passage.text) for passage in snapshot.passages(slots)]
    return Questions(
        model.embed(sentences, "query"),
        f"the first sentences of {len(sentences):,} passages (flatters: your own questions tell more)",
        np.empty(0, np.int64),
    )


def first_sentence(text: str) -> str:
    """The beginning of a passage up to the end of its first sentence or line, 300 characters at most."""
    found = _SENTENCE.search(text)
    return (found.group() if found is not None else text)[:_MOST_CHARACTERS].strip()

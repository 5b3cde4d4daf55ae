"""Collections of real pairs to search in: each corpus of `benchmarks.pairs` in a bank, embedded once with MiniLM int8.

The bank and the questions' vectors are kept under .build/ and used again while the texts are the same; they are never
committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

import embank
from benchmarks.embedded import say
from benchmarks.pairs import Pairs
from embank.bank import Bank, LocalCollection

Float32 = npt.NDArray[np.float32]

ROOM = Path(__file__).parents[1] / ".build" / "search"
MODEL = "minilm"


def open_bank(flags: Mapping[str, object] | None = None, *, model: str = MODEL) -> Bank:
    """The bank with all corpora; answers are not cached."""
    ROOM.mkdir(parents=True, exist_ok=True)
    return embank.open(ROOM / f"{model}.bank", model=model, flags={"cache.results": False, **(flags or {})})


def fill(bank: Bank, corpus: Pairs) -> None:
    """Bring the corpus into its collection, where it isn't there yet."""
    collection = searched(bank, corpus)
    if collection.count() < len(corpus.documents):
        report = collection.add([{"id": str(n), "text": text} for n, text in enumerate(corpus.documents)])
        say(f"{corpus.name}: {report}")


def asked(corpus: Pairs, *, model: str = MODEL) -> Float32:
    """The vectors of all questions, shape (questions, dimension)."""
    kept = ROOM / f"{model}-{_named(corpus)}.npy"
    if not kept.exists():
        with embank.models.load(model) as loaded:
            np.save(kept, loaded.embed(corpus.questions, "query"))
    vectors: Float32 = np.load(kept)
    return vectors


def _named(corpus: Pairs) -> str:
    mark = hashlib.blake2b("\0".join([*corpus.questions, *corpus.documents]).encode(), digest_size=4).hexdigest()
    return f"{corpus.name}-{mark}"


def searched(bank: Bank, corpus: Pairs) -> LocalCollection:
    """The corpus's collection."""
    return bank.collection(_named(corpus))


def passages(bank: Bank, corpus: Pairs) -> tuple[list[str], list[int], Float32]:
    """All passages: their texts, the numbers of their documents, and their vectors, shape (passages, dimension)."""
    with searched(bank, corpus)._stored.snapshot() as snapshot:  # noqa: SLF001 -- what peers get, as it is stored
        slots = snapshot.live_slots()
        found = snapshot.passages(slots)
        return [each.text for each in found], [int(each.id) for each in found], snapshot.vectors(slots)

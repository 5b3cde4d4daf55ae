"""A bank whose every step is small, so that a few hundred documents pass through all that a million would."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import embank
from embank import kit, reembedding
from embank.bank import Bank
from embank.store import compact, database, dropping, generations, purge, vectors
from embank.testing.fakes import HashModel

IDS = 160
"""Documents d0 to d159."""

GROUPS = 8
NAME = "kept"
MODELS = {"alpha": 64, "beta": 96}
FLAGS = {
    "store.lexical_rows": 40,
    "memory.monitor": False,
    "cache.enabled": False,
    "index.kind": "flat" if find_spec("faiss") else "exact",
    "index.tail_rows": 24,
}

Value = tuple[int, int]
"""What a document is: the version of its text, and the label in its metadata."""


def make_steps_small() -> None:
    """For this process: windows, steps and segments of a few rows."""
    kit.WINDOW_DOCUMENTS = 16
    reembedding.WINDOW_DOCUMENTS = 16  # type: ignore[attr-defined]  # it was imported there by its name
    compact.WINDOW_ROWS = 48
    purge.STEP_DOCUMENTS = 5
    dropping.STEP_DOCUMENTS = 20
    generations._STEP_ROWS = 100
    database._WORTH_BYTES = 1  # free pages are given back by the next drop
    vectors.SEGMENT_ROWS = 110


def text(name: str, version: int) -> str:
    """What a document says; one in seven is long enough for several passages."""
    number = int(name[1:])
    count = 60 if number % 7 == 0 else 1 + number % 4
    return f"unique{name} version{version} " + " ".join(f"Sentence {each} of silt and {name}." for each in range(count))


def metadata(name: str, label: int, version: int) -> dict[str, int]:
    return {"group": int(name[1:]) % GROUPS, "label": label, "version": version}


def model(name: str) -> HashModel:
    return HashModel(name=name, dimension=MODELS[name])


def current_model(bank: Path) -> str:
    """The name of the model whose vectors are in use."""
    if not (bank / "FORMAT").exists():
        return "alpha"
    with embank.open(bank, model=model("alpha"), read_only=True, flags=FLAGS) as opened:
        info = opened.collection(NAME).stats()
    return "alpha" if info is None or info.fingerprint is None else info.fingerprint.partition(":")[0]


def opened(bank: Path, *, read_only: bool = False) -> Bank:
    """The bank with the model that it needs."""
    return embank.open(bank, model=model(current_model(bank)), read_only=read_only, flags=FLAGS)

"""Banks with passages of made-up words, and with vectors of a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embank.bank import Bank, LocalCollection, open_bank
from embank.testing.fakes import HashModel
from embank.testing.indexes import Float32, clustered

MODEL = HashModel()


def texts(count: int, *, seed: int = 1) -> dict[str, str]:
    """Texts about a few dozen topics, by id: neighbours share words."""
    random = np.random.default_rng(seed)
    topics = [[f"t{topic}w{word}" for word in range(12)] for topic in range(40)]
    made = {}
    for number in range(count):
        topic = topics[int(random.integers(len(topics)))]
        chosen = [topic[int(place)] for place in random.integers(len(topic), size=8)]
        made[f"d{number:05}"] = " ".join([*chosen, f"own{number}"]) + "."
    return made


def wide(count: int, width: int, *, seed: int = 2) -> Float32:
    """Normalised vectors of `width` dimensions that vary in far fewer, and in all of them a little."""
    random = np.random.default_rng(seed)
    spread = random.standard_normal((48, width)).astype(np.float32)
    rows = clustered(count, seed=seed) @ spread + np.float32(0.3) * random.standard_normal((count, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with open_bank(tmp_path / "bank", memory="1GB", model=MODEL) as opened:
        yield opened


@pytest.fixture
def notes(bank: Bank) -> LocalCollection:
    """600 texts with the vectors of `MODEL`, 64 dimensions."""
    collection = bank.collection("notes")
    collection.add([{"id": name, "text": text, "metadata": {"number": name}} for name, text in texts(600).items()])
    return collection

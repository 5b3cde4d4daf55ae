"""Collections of made-up vectors, large enough for an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.testing.backends import SPACE, Opener, add, found
from embank.testing.indexes import Float32, clustered

__all__ = ["ROWS", "SPACE", "Opener", "add", "exact", "found"]

ROWS = 5_000


def exact(vectors: Float32, query: Float32, alive: Any = None, k: int = 10) -> Float32:
    """The `k` best scores."""
    scores = vectors.astype(np.float16).astype(np.float32) @ query
    return np.sort(scores if alive is None else scores[alive])[::-1][:k]


@pytest.fixture(scope="session")
def vectors() -> Float32:
    return clustered(ROWS, seed=50)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Opener]:
    """Opens the bank `tmp_path/bank`; what a test leaves open is closed behind it."""
    opener = Opener(tmp_path / "bank")
    yield opener
    opener.close()

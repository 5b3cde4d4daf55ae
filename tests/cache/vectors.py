"""Vectors to keep, and what the kernel says of the memory that they are kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

Float32 = npt.NDArray[np.float32]


def unit(count: int, dimension: int = 32, *, seed: int = 0) -> Float32:
    """Normalised vectors, float32, shape (count, dimension)."""
    rows = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def names(count: int, of: str = "text") -> list[str]:
    return [f"{of} {number}" for number in range(count)]


def mapped_bytes(pid: int | str = "self") -> int:
    """Memory in the mappings of a process that decline huge pages and core dumps, as the cache's do, nobody else's."""
    path = Path("/proc") / str(pid) / "smaps"
    if not path.is_file():
        pytest.skip("the kernel tells nothing of mappings")
    text = path.read_text()
    if "VmFlags" not in text:
        pytest.skip("the kernel tells nothing of mappings' flags")
    held_kib = anonymous_kib = 0
    for line in text.splitlines():
        if line.startswith("Anonymous:"):
            anonymous_kib = int(line.split()[1])
        elif line.startswith("VmFlags:") and {"nh", "dd"} <= set(line.split()):
            held_kib += anonymous_kib
    return held_kib << 10

"""The compiled shim, where there is a compiler and system calls can be watched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.crash import shim


@pytest.fixture(scope="session")
def library() -> Path:
    if not sys.platform.startswith("linux"):
        pytest.skip("system calls are watched on Linux only")
    try:
        return shim.compiled()
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture
def environment() -> dict[str, str]:
    """For a Python that finds the tests and the package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}

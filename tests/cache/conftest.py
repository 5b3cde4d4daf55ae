"""Fixtures of the cache's tests."""

from __future__ import annotations

import pytest
from tests.memory.machine import StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()

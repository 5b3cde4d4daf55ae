"""Fixtures over `tests.memory.machine`."""

from __future__ import annotations

from typing import Protocol

import pytest
from tests.memory.machine import MB, Machine, StillClock

from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.settings import Settings


class Govern(Protocol):
    """Makes a governor over the machine; settings by keyword."""

    def __call__(
        self, budget_bytes: int = ..., *, baseline_bytes: int = ..., stream: Stream | None = ..., **settings: object
    ) -> Governor: ...


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def govern(machine: Machine, clock: StillClock) -> Govern:
    def make(
        budget_bytes: int = 100 * MB, *, baseline_bytes: int = 0, stream: Stream | None = None, **settings: object
    ) -> Governor:
        return Governor(
            budget_bytes,
            meter=machine,
            clock=clock,
            stream=stream,
            baseline_bytes=baseline_bytes,
            settings=Settings.model_validate({"check_interval_s": 0, **settings}),
        )

    return make

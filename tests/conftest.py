"""What holds for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# Threads of OpenMP burn a processor while they wait for each other, which here the process beside this one has use for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# How fast the machine is decides nothing here.
settings.register_profile("embank", deadline=None)
settings.load_profile("embank")

SLOW = ("tests/flows/", "tests/crash/", "tests/embed/", "tests/store/index/", "tests/cli/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the rooms with the slowest files first: one that begins last would leave the other processors idle."""
    items.sort(
        key=lambda item: next((place for place, room in enumerate(SLOW) if item.nodeid.startswith(room)), len(SLOW))
    )


def pytest_collection_finish() -> None:
    """Leave the thousands of collected tests, which live to the end, out of every garbage collection from here on."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test printed fit to be sent from the process that ran it, where there are several: UTF-8."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report

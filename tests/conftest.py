"""What holds for all tests."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest
from hypothesis import settings

# How fast the machine is decides nothing here.
settings.register_profile("embank", deadline=None)
settings.load_profile("embank")


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

"""Libraries so large that collecting the tests shall not import them: only the tests that use them do."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest


class _Later:
    """Stands for a module, which is imported when the first of its public attributes is asked for.

    pytest asks whatever stands in a test file for some that are private.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def later(name: str, *, extra: str = "") -> Any:
    """The module of that name, not imported yet; the calling file's tests are skipped where its package is missing."""
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'embank[{extra}]'", allow_module_level=True)
    return _Later(name)

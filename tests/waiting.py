"""Waiting for what another thread or process is about to do."""

from __future__ import annotations

import time
from collections.abc import Callable

_PATIENCE_S = 30.0


def until(condition: Callable[[], object], what: str = "it comes to that") -> None:
    """Wait until it is so. Raises AssertionError, with what was waited for, where it does not become so."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited in vain: {what}"
        time.sleep(0.005)

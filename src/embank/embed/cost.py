"""What batches really take, learned from the first of them after a load.

An engine estimates a batch's bytes from its shape. Runtimes, allocators and processors differ, so the estimate is held
against how far the process grew since the model was loaded, and what is reserved from then on is corrected by it. Only
the first batches are looked at, and only while one call is under way: later, and beside others, memory grows for
reasons that are not the batch's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embank.system.log import get_logger

_log = get_logger(__name__)

_LEARNT_FROM = 16
"""Windows of batches, one after the other, that are looked at."""
_LEAST, _MOST = 0.5, 4.0
# The process grows in steps and by other things, too; smaller batches than this teach nothing.
_LEAST_TEACHING_BYTES = 2 << 20


class BatchCost:
    """`factor`, on an engine's estimates. Thread-safe. `held_bytes` reads this process's anonymous memory."""

    def __init__(self, held_bytes: Callable[[], int | None]) -> None:
        self._held_bytes = held_bytes
        self._lock = threading.Lock()
        self._users = 0
        self._was_shared = False
        self._before_bytes: int | None = None
        self._estimated_bytes = 0
        self._looked = 0
        self.factor = 1.0

    @contextmanager
    def watched(self, estimated_bytes: int) -> Iterator[None]:
        """Around computing a window's batches, of which the engine estimates so much in all."""
        with self._lock:
            self._users += 1
            self._was_shared = self._was_shared or self._users > 1
            if self._before_bytes is None:
                self._before_bytes = self._held_bytes()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    if not self._was_shared:
                        self._learn(estimated_bytes)
                    self._was_shared = False

    def _learn(self, estimated_bytes: int) -> None:
        if self._looked >= _LEARNT_FROM or self._before_bytes is None:
            return
        held_bytes = self._held_bytes()
        self._estimated_bytes = max(self._estimated_bytes, estimated_bytes)
        if held_bytes is None or self._estimated_bytes < _LEAST_TEACHING_BYTES:
            return
        self._looked += 1
        ratio = max(held_bytes - self._before_bytes, 0) / self._estimated_bytes
        if ratio > self.factor:
            # At once: the next batch must not exceed what is reserved for it.
            self.factor = min(ratio, _MOST)
            _log.info("batches take %.2f times what was estimated", ratio)
        elif self._looked == _LEARNT_FROM:
            self.factor = max(ratio, _LEAST)

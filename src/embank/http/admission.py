"""Memory for requests: asked of the governor before it is taken, in blocks, so that asking costs little.

Bytes in use are drawn from blocks that are reserved with the governor. A further block is asked for when they do not
suffice, and in any case once in `_FRESH_S`, so that the ladder's word (no new work) is heard in time. Asking happens in
a thread of its own: where memory is tight it takes long, since others give theirs up first.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from embank.memory.governor import Governor, Reservation
from embank.system.clock import Clock

_BLOCK_BYTES = 4 << 20
_FRESH_S = 0.25


class Admission:
    """To be used from one event loop. `used_bytes` is what requests under way have been granted."""

    def __init__(self, governor: Governor, *, clock: Clock) -> None:
        self._governor = governor
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="embank-admission")
        self._asking = asyncio.Lock()
        self._blocks: list[Reservation] = []
        self._asked_s: float | None = None
        self.used_bytes = 0

    @property
    def granted_bytes(self) -> int:
        return sum(block.granted_bytes for block in self._blocks)

    async def take(self, wanted_bytes: int) -> None:
        """Have so many bytes more. Raises `BudgetExceeded` where the governor has none to give."""
        if not self._suffice(wanted_bytes):
            async with self._asking:
                if not self._suffice(wanted_bytes):
                    await self._ask(wanted_bytes)
        self.used_bytes += wanted_bytes

    def give(self, done_bytes: int) -> None:
        """Have so many bytes less. Blocks that nobody needs go back to the governor; one of the usual size is kept."""
        self.used_bytes -= done_bytes
        self._return_spare(self.used_bytes)

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        for block in self._blocks:
            block.release()
        self._blocks.clear()

    def _suffice(self, wanted_bytes: int) -> bool:
        is_fresh = self._asked_s is not None and self._clock.monotonic() - self._asked_s < _FRESH_S
        return is_fresh and self.used_bytes + wanted_bytes <= self.granted_bytes

    async def _ask(self, wanted_bytes: int) -> None:
        missing_bytes = max(self.used_bytes + wanted_bytes - self.granted_bytes, 0)
        least_bytes = max(missing_bytes, wanted_bytes, 1)
        loop = asyncio.get_running_loop()
        block = await loop.run_in_executor(self._pool, self._reserve, max(least_bytes, _BLOCK_BYTES), least_bytes)
        self._asked_s = self._clock.monotonic()
        if missing_bytes or any(each.granted_bytes > _BLOCK_BYTES for each in self._blocks):
            self._blocks.append(block)
            self._return_spare(self.used_bytes + wanted_bytes)  # small requests must not hold on to a large block
        else:  # only the word was wanted
            self._pool.submit(block.release)

    def _return_spare(self, needed_bytes: int) -> None:
        for block in sorted(self._blocks, key=lambda each: each.granted_bytes, reverse=True):
            kept_bytes = 0 if block.granted_bytes > _BLOCK_BYTES else _BLOCK_BYTES
            if self.granted_bytes - block.granted_bytes >= needed_bytes + kept_bytes:
                self._blocks.remove(block)
                self._pool.submit(block.release)

    def _reserve(self, wanted_bytes: int, least_bytes: int) -> Reservation:
        return self._governor.reserve("HTTP requests", wanted_bytes, least_bytes=least_bytes)

"""What the service manager hears: that the service is ready, how it stands, and, while it works, that it is alive.

Alive is more than that the process is there: the event loop comes round, and the engine answers, which is to say that
the database can be read and the governor tells what is held. A thread of its own asks the engine, so that neither busy
workers nor a busy model count as death; while it gets no answer, there is no sign of life. What a restart would not
mend (a model that can't be loaded, a disk that is full) is told as status, and in `/readyz`.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from embank.errors import EmbankError
from embank.http.checks import reasons
from embank.system.log import get_logger
from embank.system.notify import ServiceManager

if TYPE_CHECKING:
    from embank.http.service import Service

_log = get_logger(__name__)

_STARTING_S = 0.1
_TELLING_S = 10.0


class Heartbeat:
    """Made on the event loop that it runs on. `run` goes on until it is cancelled."""

    def __init__(self, service: Service, manager: ServiceManager, endpoint: str) -> None:
        self._service = service
        self._manager = manager
        self._endpoint = endpoint
        self._asked = threading.Event()
        self._answered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._is_ready = False
        self._status = ""

    async def run(self) -> None:
        if not self._manager.listens:
            return
        thread = threading.Thread(target=self._ask, name="embank-heartbeat", daemon=True)
        thread.start()
        every_s = self._manager.alive_every_s or _TELLING_S
        try:
            while True:
                self._asked.set()
                pause_s = every_s if self._is_ready else min(every_s, _STARTING_S)
                pause = self._loop.create_task(asyncio.sleep(pause_s))
                await asyncio.wait([pause, self._loop.create_task(self._beat())], return_when=asyncio.ALL_COMPLETED)
        finally:
            self._ended = True
            self._asked.set()

    async def _beat(self) -> None:
        """One sign of life, once the engine answers."""
        await self._answered.wait()
        self._answered.clear()
        told = ["WATCHDOG=1"] if self._manager.alive_every_s else []
        why = reasons(self._service)
        if not self._is_ready and not why:
            self._is_ready = True
            told.append("READY=1")
        status = self._stands(why)
        if status != self._status and not self._service.draining:
            self._status = status
            told.append(f"STATUS={status}")
        if told:
            self._manager.tell(*told)

    def _stands(self, why: list[str]) -> str:
        if why:
            return f"not ready: {'; '.join(why)}"
        memory = self._service.governor.snapshot()
        held, budget = round(memory.real_bytes / 1e6), round(memory.budget_bytes / 1e6)
        return f"serving at {self._endpoint}, {held} of {budget} MB held"

    def _ask(self) -> None:
        """The thread: ask the engine each time that it is due."""
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._ended:
                return
            try:
                self._service.bank.collections()
                self._service.bank.memory()
            except EmbankError as error:
                _log.error("the engine does not answer as it should, so there is no sign of life: %s", error)
                continue
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._answered.set)

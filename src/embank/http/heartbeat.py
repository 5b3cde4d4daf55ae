"""What the service manager hears: that the service is ready, how it stands, and, while it works, that it is alive.

Alive is more than that the process is there: the event loop comes round, and the engine answers, which is to say that
the database can be read and the governor tells what is held. A thread of its own asks the engine, so that neither busy
workers nor a busy model count as death; while it gets no answer, there is no sign of life. What a restart would not
mend (a model that can't be loaded) is told as status, and in `/readyz`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from embank.errors import EmbankError
from embank.http.checks import reasons
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.http.service import Service
    from embank.system.notify import ServiceManager

_log = get_logger(__name__)

_STARTING_S = 0.2
_TELLING_S = 10.0


class Heartbeat:
    """Made on the event loop that it runs on. `run` goes on until it is cancelled.

    The manager is told `READY=1` once requests are taken and the model is loaded or can't be; then `WATCHDOG=1` as
    often as it asked for, and the status when it changes.
    """

    def __init__(self, service: Service, manager: ServiceManager, endpoint: str) -> None:
        self._service = service
        self._manager = manager
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._asked: queue.SimpleQueue[asyncio.Future[bool] | None] = queue.SimpleQueue()
        self._is_ready = False
        self._status = ""

    async def run(self) -> None:
        if not self._manager.listens:
            return
        # A daemon: an engine that hangs must not keep the process from ending.
        threading.Thread(target=self._ask, name="embank-heartbeat", daemon=True).start()
        every_s = self._manager.alive_every_s or _TELLING_S
        try:
            while True:
                answered = self._loop.create_future()
                self._asked.put(answered)
                if await answered:
                    self._tell()
                await asyncio.sleep(every_s if self._is_ready else min(every_s, _STARTING_S))
        finally:
            self._asked.put(None)

    def _tell(self) -> None:
        told = ["WATCHDOG=1"] if self._manager.alive_every_s else []
        if not self._is_ready and self._service.warmed:
            self._is_ready = True
            told.append("READY=1")
        status = self._stands()
        if status != self._status and not self._service.draining:
            self._status = status
            told.append(f"STATUS={status}")
        if told:
            self._manager.tell(*told)

    def _stands(self) -> str:
        why = reasons(self._service)
        if why:
            return f"listening at {self._endpoint}, not ready: {'; '.join(why)}"
        memory = self._service.governor.snapshot()
        held, budget = round(memory.real_bytes / 1e6), round(memory.budget_bytes / 1e6)
        return f"serving at {self._endpoint}, {held} of {budget} MB held"

    def _ask(self) -> None:
        """The thread: ask the engine each time that it is due."""
        while (answered := self._asked.get()) is not None:
            try:
                self._service.bank.collections()
                self._service.bank.memory()
                lives = True
            except EmbankError as error:
                _log.error("the engine does not answer as it should, so there is no sign of life: %s", error)
                lives = False
            with suppress(RuntimeError):  # the loop is over: nobody waits for it
                self._loop.call_soon_threadsafe(_settle, answered, lives)


def _settle(answered: asyncio.Future[bool], lives: bool) -> None:  # noqa: FBT001 -- called by the event loop
    if not answered.done():  # nobody waits for it once `run` is cancelled
        answered.set_result(lives)

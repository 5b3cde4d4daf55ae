"""The service behind the routes: the bank, the threads that work on it, and all that is kept while it serves.

Wiring only. Made and closed with the event loop that it is used from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from embank.bank import Bank, LocalCollection
from embank.client.local import new_secret
from embank.errors import CollectionNotFound, EmbankError
from embank.events.kinds import RequestAnswered, ServiceDraining
from embank.events.metrics import Metrics
from embank.http.admission import Admission
from embank.http.embedding import Embedding
from embank.http.figures import figures
from embank.http.jobs import Jobs
from embank.http.security import Guard, book_of
from embank.http.settings import Settings
from embank.http.workers import Workers
from embank.memory.hygiene import usable_cpus
from embank.registry import import_path
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.http.telemetry.sending import Telemetry

_log = get_logger(__name__)

_FOLD_S = 0.25

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Service:
    """See the module. `requests` counts those under way; `draining` says that nothing new is taken."""

    def __init__(self, bank: Bank) -> None:
        engine = bank.engine
        self.bank = bank
        self.settings: Settings = engine.config.section("http")
        self.governor = engine.governor
        self.stream = engine.stream
        self.clock = engine.clock
        self.metrics = Metrics()
        threads, waiting, wait_s = self.settings.threads, self.settings.waiting, self.settings.thread_wait_s
        self.workers = Workers(threads, waiting, name="embank-http", clock=self.clock, wait_s=wait_s)
        # Half of what a search does needs the interpreter, and threads lose much by taking it from each other: of two
        # processors, one thread answered 800 a second, two 620, eight 380.
        searches = self.settings.searches or max(usable_cpus() // 2, 1)
        self.searches = Workers(searches, waiting, name="embank-search", clock=self.clock, wait_s=wait_s)
        jobs, waiting = self.settings.jobs, self.settings.jobs_waiting
        self._job_workers = Workers(jobs, waiting, name="embank-jobs", clock=self.clock)
        self.jobs = Jobs(self._job_workers, kept=self.settings.jobs_kept, stream=self.stream, clock=self.clock)
        self.admission = Admission(self.governor, clock=self.clock)
        self.embedding = Embedding(engine, self.workers, self.settings)
        self.secret = new_secret()
        self.guard = Guard(book_of(bank.path, self.settings), self.settings, secret=self.secret)
        self.requests = 0
        self.listeners = 0
        self.draining = False
        self.model_error = "the model is not loaded yet"
        """Why the model of new collections can't be used; empty when it can."""
        self.warmed = False
        """Whether loading it has come to an end, whichever."""
        self._later: set[asyncio.Task[object]] = set()
        self._folding = self.stream.subscribe(capacity=10_000)  # pulled: a callback's thread would wake at each event
        self._telemetry = self._sending()

    @property
    def events_dropped(self) -> int:
        """Events that the figures lack."""
        return self._folding.dropped

    @property
    def backups(self) -> Path:
        """Where backups go."""
        path = self.bank.path
        return self.settings.backups or path.with_name(f"{path.name}-backups")

    def collection(self, name: str) -> LocalCollection:
        """A collection that exists; `CollectionNotFound` else. Blocks."""
        # Asked of the store first: the bank keeps a handle of every name that it is asked for.
        if self.bank.engine.store.info(name) is None:
            raise CollectionNotFound(f"there is no collection {name!r}", name=name)
        return self.bank.collection(name)

    def on_record(self, act: str, **detail: object) -> None:
        """Write an act of administration into the bank's audit. Blocks."""
        self.bank.engine.store.on_record(act, **detail)

    def later(self, work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> None:
        """Have a thread do what no answer waits for; what it raises is logged."""

        async def do() -> None:
            try:
                await asyncio.to_thread(work, *args, **options)
            except EmbankError as error:
                _log.error("what was to be done beside a request failed: %s", error)

        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(do())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def warm(self) -> None:
        """Load the model, where it is not left for later; how that went is in `model_error`. Blocks."""
        try:
            if self.settings.warm:
                self.bank.warm()
        except EmbankError as error:
            self.model_error = error.message
            _log.warning("the model can't be used: %s", error)
        else:
            self.model_error = ""
        finally:
            self.warmed = True

    def drain(self) -> None:
        """Take no new work from now on."""
        if not self.draining:
            self.draining = True
            self.stream.publish(ServiceDraining(requests=self.requests, jobs=self.jobs.running))

    async def close(self) -> None:
        """End jobs and threads; the bank stays open."""
        self.drain()
        await self.jobs.drain(wait_s=self.settings.drain_s)
        if self._later:
            await asyncio.wait(self._later)
        ends = [
            self.workers.close,
            self.searches.close,
            self._job_workers.close,
            self.admission.close,
            self._folding.close,
        ]
        for end in ends if self._telemetry is None else [*ends, self._telemetry.close]:
            await asyncio.to_thread(end)

    def _sending(self) -> Telemetry | None:
        """OpenTelemetry's traces and metrics, where the settings ask for them; `MissingExtra` without its SDK."""
        settings = self.bank.config.section("telemetry")
        if not (settings.traces or settings.metrics):
            return None
        from embank.http.telemetry.sending import Telemetry

        return Telemetry(
            settings,
            stream=self.stream,
            read=lambda: ([*self.metrics.counted(), *figures(self)], self.metrics.timed()),
            version=str(import_path("embank:__version__")),
            clock=self.clock,
        )

    def fold(self) -> None:
        """Take what happened since the last time into the figures."""
        for event in self._folding.drain():
            if not isinstance(event, RequestAnswered):  # those are counted at their source
                self.metrics.observe(event)

    async def keep_folding(self) -> None:
        """Do so often enough that no event is lost, until it is cancelled."""
        while True:
            await asyncio.sleep(_FOLD_S)
            self.fold()

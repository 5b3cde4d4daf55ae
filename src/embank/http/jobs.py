"""Long work in the background: a bounded table of jobs, each with an id, a state, how far it is, and what came of it.

Jobs live in memory: what a job did is in the bank, whether or not anybody remembers the job. The oldest that ended make
place for new ones. Cancelling works where the work tells how far it is: it stops at the next such word, between two
commits, and what was committed stays.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from embank.client.schemas import ErrorBody, JobAnswer, JobState
from embank.events.kinds import JobEnded
from embank.events.stream import Stream
from embank.http.errors import Refusal, told
from embank.http.workers import Workers
from embank.memory.priority import bulk_work
from embank.system.clock import Clock
from embank.system.log import get_logger

_log = get_logger(__name__)

Work = Literal["import", "purge", "compact", "drop", "backup"]
Tell = Callable[[Mapping[str, Any]], None]
"""Called by the work with how far it is, in its own words; ends the work where the job was cancelled."""


class Cancelled(Exception):
    """Ends the work of a job that is not wanted any more."""


@dataclass(slots=True, eq=False)
class _Job:
    id: str
    work: Work
    collection: str | None
    created: float
    state: JobState = "waiting"
    started: float | None = None
    ended: float | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: ErrorBody | None = None
    failure: BaseException | None = None
    cancelling: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self) -> JobAnswer:
        return JobAnswer(
            id=self.id,
            kind=self.work,
            collection=self.collection,
            state=self.state,
            created=self.created,
            started=self.started,
            ended=self.ended,
            progress=dict(self.progress),
            result=self.result,
            error=self.error,
        )


class Jobs:
    """To be used from one event loop; the work itself runs in `workers`."""

    def __init__(self, workers: Workers, *, kept: int, stream: Stream, clock: Clock) -> None:
        self._workers = workers
        self._kept = kept
        self._stream = stream
        self._clock = clock
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    def start(
        self,
        work: Work,
        collection: str | None,
        do: Callable[[Tell], Mapping[str, Any]],
        *,
        at_end: Callable[[], object] = lambda: None,
    ) -> str:
        """Have `do` done as soon as there is a place, as bulk work; the job's id. `Refusal` where too many wait.

        `at_end` is called in any case, also where `do` never was.
        """
        if self._draining:
            raise Refusal(503, "draining", "the service is being stopped: it begins nothing new", retry_s=5)
        self._forget()
        job = _Job(secrets.token_hex(8), work, collection, self._clock.now())
        self._workers.check()
        self._jobs[job.id] = job
        task = asyncio.get_running_loop().create_task(self._run(job, do, at_end))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job.id

    async def ended(self, id_: str, *, wait_s: float) -> JobAnswer:
        """The job, at its end or after `wait_s`. Raises what its work raised."""
        answer = await self.watched(id_, wait_s=wait_s)
        failure = self._find(id_).failure
        if failure is not None:
            raise failure
        return answer

    async def watched(self, id_: str, *, wait_s: float) -> JobAnswer:
        """The job, at its end or after `wait_s`, whatever became of it."""
        job = self._find(id_)
        with suppress(TimeoutError):
            await asyncio.wait_for(job.over.wait(), wait_s)
        return job.answer()

    def get(self, id_: str) -> JobAnswer:
        return self._find(id_).answer()

    def every(self) -> list[JobAnswer]:
        """The newest first."""
        return [job.answer() for job in reversed(self._jobs.values())]

    def cancel(self, id_: str) -> JobAnswer:
        """Ask a job to end; one that is over stays as it is."""
        job = self._find(id_)
        job.cancelling = True
        return job.answer()

    @property
    def running(self) -> int:
        return sum(job.state in ("waiting", "running") for job in self._jobs.values())

    async def drain(self, *, wait_s: float) -> bool:
        """Begin nothing new and ask all to end; whether they did within `wait_s`."""
        self._draining = True
        for job in self._jobs.values():
            job.cancelling = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=wait_s)
        return not self._tasks

    async def _run(self, job: _Job, do: Callable[[Tell], Mapping[str, Any]], at_end: Callable[[], object]) -> None:
        def tell(progress: Mapping[str, Any]) -> None:
            job.progress = dict(progress)
            if job.cancelling:
                raise Cancelled

        def work() -> dict[str, Any]:
            job.state, job.started = "running", self._clock.now()
            if job.cancelling:
                raise Cancelled
            with bulk_work():
                return dict(do(tell))

        try:
            job.result = await self._workers.run(work)
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
        except Exception as error:  # noqa: BLE001 -- it is the job's own, told to whoever asks for the job
            status, answer, _ = told(error, None)
            if status == 500:
                _log.exception("job %s (%s) failed", job.id, job.work)
            job.state, job.error = "failed", answer.error
            job.failure = error.with_traceback(None)  # its frames hold what it worked on
        finally:
            at_end()
        job.ended = self._clock.now()
        job.over.set()
        seconds = job.ended - (job.started or job.created)
        self._stream.publish(
            JobEnded(job=job.id, work=job.work, collection=job.collection, state=job.state, seconds=seconds)
        )

    def _find(self, id_: str) -> _Job:
        job = self._jobs.get(id_)
        if job is None:
            raise Refusal(404, "job_not_found", f"there is no job {id_!r}: it never was, or newer ones took its place")
        return job

    def _forget(self) -> None:
        """Make place for one more."""
        over = [job.id for job in self._jobs.values() if job.over.is_set()]
        for id_ in over[: max(len(self._jobs) - self._kept + 1, 0)]:
            del self._jobs[id_]

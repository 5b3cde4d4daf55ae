"""Upkeep: purge, compact, drop, backup, memory given back, the record of acts. What may take long is a job.

The answer of a job's route is the job: 200 when it is over, 202 when it goes on beyond the time that was to be waited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from embank.client.schemas import (
    MOST_WAIT_S,
    AuditAnswer,
    AuditsAnswer,
    BackupAsked,
    CompactAsked,
    JobAnswer,
    MemoryAnswer,
    PurgeAsked,
    ReleaseAnswer,
)
from embank.http.jobs import Tell, Work
from embank.http.routes.collections import Name
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service

router = APIRouter(tags=["upkeep"], route_class=ScopedRoute)

_JOB: dict[int | str, dict[str, Any]] = {202: {"model": JobAnswer, "description": "It goes on."}}


@router.post("/collections/{name}/purge", responses=_JOB, openapi_extra=needs("admin"))
async def purge(request: Request, response: Response, name: Name, asked: PurgeAsked) -> JobAnswer:
    """Delete documents by age, by number or by a filter; with `dry_run` only tell exactly what would go."""
    service: Service = request.app.state.service

    def work(tell: Tell) -> Mapping[str, Any]:
        report = service.collection(name).purge(
            older_than=None if asked.older_than_s is None else float(asked.older_than_s),
            keep=asked.keep,
            by=asked.by,
            where=asked.where,
            dry_run=asked.dry_run,
            on_progress=lambda fraction, step: tell({"fraction": fraction, "step": step}),
        )
        return report.as_dict()

    return await _job(service, response, "purge", name, work, wait_s=float(asked.wait_s))


@router.post("/collections/{name}/compact", responses=_JOB, openapi_extra=needs("admin"))
async def compact(request: Request, response: Response, name: Name, asked: CompactAsked) -> JobAnswer:
    """Rewrite vectors and words without what was deleted or replaced, while searches and writes go on."""
    service: Service = request.app.state.service

    def work(tell: Tell) -> Mapping[str, Any]:
        report = service.collection(name).compact(
            dry_run=asked.dry_run,
            on_progress=lambda live: tell({"passages": live.copied, "passages_total": live.passages}),
        )
        return report.as_dict()

    return await _job(service, response, "compact", name, work, wait_s=float(asked.wait_s))


@router.delete("/collections/{name}", responses=_JOB, openapi_extra=needs("admin"))
async def drop(
    request: Request,
    response: Response,
    name: Name,
    *,
    dry_run: bool = False,
    wait_s: Annotated[float, Query(ge=0, le=MOST_WAIT_S, allow_inf_nan=False)] = 30,
) -> JobAnswer:
    """Delete a collection with all that is in it; with `dry_run` only tell what would go. Once begun it ends."""
    service: Service = request.app.state.service

    def work(_: Tell) -> Mapping[str, Any]:  # who cancels it would be told that it was, and the collection is gone
        return service.bank.drop(name, dry_run=dry_run).as_dict()

    return await _job(service, response, "drop", name, work, wait_s=wait_s)


@router.post("/backup", responses=_JOB, openapi_extra=needs("admin"))
async def backup(request: Request, response: Response, asked: BackupAsked) -> JobAnswer:
    """Copy the bank as it is now, while it is used, into the server's folder of backups; the copy is verified."""
    service: Service = request.app.state.service

    def work(tell: Tell) -> Mapping[str, Any]:
        service.backups.mkdir(mode=0o700, parents=True, exist_ok=True)
        report = service.bank.backup(
            service.backups / asked.name, on_progress=lambda fraction, step: tell({"fraction": fraction, "step": step})
        )
        return report.as_dict()

    return await _job(service, response, "backup", None, work, wait_s=float(asked.wait_s))


@router.get("/memory", openapi_extra=needs("read"))
async def memory(request: Request) -> MemoryAnswer:
    """Where the service's memory stands against its budget, measured now."""
    service: Service = request.app.state.service
    snapshot = await service.workers.run(service.bank.memory)
    return MemoryAnswer.model_validate(snapshot.as_dict())


@router.post("/memory/release", openapi_extra=needs("admin"))
async def release(request: Request) -> ReleaseAnswer:
    """Give back all memory that can be earned again: models, caches, the allocator's hoard."""
    service: Service = request.app.state.service
    return ReleaseAnswer(freed_bytes=await service.workers.run(service.bank.release))


@router.post("/cache/clear", openapi_extra=needs("admin"))
async def clear_cache(request: Request) -> ReleaseAnswer:
    """Empty the caches, the one on disk as well."""
    service: Service = request.app.state.service
    return ReleaseAnswer(freed_bytes=await service.workers.run(service.bank.clear_cache))


@router.get("/audit", openapi_extra=needs("admin"))
async def audit(request: Request, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> AuditsAnswer:
    """The latest acts on record, the newest first: deletions, purges, protection, backups, keys."""
    service: Service = request.app.state.service
    rows = await service.workers.run(lambda: service.bank.audit(limit=limit))
    return AuditsAnswer(
        acts=[AuditAnswer(at=row.at, act=row.act, collection=row.collection, detail=row.detail) for row in rows]
    )


async def _job(
    service: Service,
    response: Response,
    work: Work,
    collection: str | None,
    do: Callable[[Tell], Mapping[str, Any]],
    *,
    wait_s: float,
) -> JobAnswer:
    id_ = service.jobs.start(work, collection, do)
    answer = await service.jobs.ended(id_, wait_s=min(wait_s, service.settings.request_wait_s / 2))
    response.headers["location"] = f"/jobs/{id_}"
    if answer.state in ("waiting", "running"):
        response.status_code = 202
    return answer

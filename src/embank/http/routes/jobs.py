"""Long work: where it stands, and ending it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from embank.client.schemas import MOST_WAIT_S, JobAnswer, JobsAnswer
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=ScopedRoute)


@router.get("", openapi_extra=needs("read"))
async def every(request: Request) -> JobsAnswer:
    """The jobs that are remembered, the newest first."""
    service: Service = request.app.state.service
    return JobsAnswer(jobs=service.jobs.every())


@router.get("/{id}", openapi_extra=needs("read"))
async def show(
    request: Request,
    id: str,  # noqa: A002 -- the path's own word
    wait_s: Annotated[float, Query(ge=0, le=MOST_WAIT_S, allow_inf_nan=False)] = 0,
) -> JobAnswer:
    """A job, at once or when it ended, at most `wait_s` seconds from now."""
    service: Service = request.app.state.service
    return await service.jobs.watched(id, wait_s=min(wait_s, service.settings.request_wait_s / 2))


@router.post("/{id}/cancel", openapi_extra=needs("write"))
async def cancel(request: Request, id: str) -> JobAnswer:  # noqa: A002 -- the path's own word
    """Ask a job to end. It stops between two commits; what was committed stays."""
    service: Service = request.app.state.service
    return service.jobs.cancel(id)

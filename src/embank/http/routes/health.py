"""Health, figures, and the OpenAPI: is it alive, is it ready, does it do what it is there for, and how much."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from embank.client.inspection import HealthAnswer, ProofAnswer
from embank.client.local import proof
from embank.events.metrics import CONTENT_TYPE
from embank.http.checks import deep_checks, reasons, shallow_checks
from embank.http.figures import figures
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service

router = APIRouter(tags=["health"], route_class=ScopedRoute)

_FAILING: dict[int | str, dict[str, Any]] = {503: {"model": HealthAnswer, "description": "It can't work now."}}


@router.get("/livez", openapi_extra=needs("nothing"))
async def livez() -> HealthAnswer:
    """Whether the process answers at all. Asks for no key and touches nothing."""
    return HealthAnswer(status="ok")


@router.get("/readyz", responses=_FAILING, openapi_extra=needs("nothing"))
async def readyz(request: Request, response: Response) -> HealthAnswer:
    """Whether it should be sent requests: 503 with reasons while it is starting, stopping, or short of memory."""
    service: Service = request.app.state.service
    why = reasons(service)
    response.status_code = 503 if why else 200
    return HealthAnswer(status="not ready" if why else "ok", reasons=why)


@router.get("/proof", openapi_extra=needs("nothing"))
async def prove(
    request: Request, nonce: Annotated[str, Query(min_length=32, max_length=64, pattern="^[0-9a-f]+$")]
) -> ProofAnswer:
    """Prove to a command on this machine that this is the server that announced itself in the bank.

    The answer follows from the nonce and a secret that stands in the bank's folder: no key is asked for, or told.
    """
    service: Service = request.app.state.service
    return ProofAnswer(proof=proof(service.secret, nonce))


@router.get("/healthz", responses=_FAILING, openapi_extra=needs("read"))
async def healthz(request: Request, response: Response, deep: Annotated[bool, Query()] = False) -> HealthAnswer:  # noqa: FBT002 -- a query's own form
    """Look at each part. `deep=1` really embeds a text, writes a document, finds it and reads it; needs scope write.

    That document is the only one of the collection `embank-health`.
    """
    service: Service = request.app.state.service
    if deep:
        service.guard.check(request, "write")
    checks = await service.workers.run(deep_checks if deep else shallow_checks, service)
    why = reasons(service) + [f"{check.name}: {check.detail}" for check in checks if not check.ok]
    response.status_code = 503 if why else 200
    return HealthAnswer(status="failing" if why else "ok", reasons=why, checks=checks)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra=needs("read"),
)
async def metrics(request: Request) -> Response:
    """Figures in Prometheus's text format."""
    service: Service = request.app.state.service
    service.fold()
    text = await service.workers.run(lambda: service.metrics.text(figures(service)))
    return Response(text, media_type=CONTENT_TYPE)


@router.get("/openapi.json", openapi_extra=needs("read"))
async def openapi(request: Request) -> dict[str, Any]:
    """This very description."""
    made: dict[str, Any] = request.app.openapi()
    return made

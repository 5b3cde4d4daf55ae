"""Collections: made, listed, shown, protected, counted; and what the bank as a whole holds."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from embank.client.schemas import (
    CollectionAnswer,
    CollectionAsked,
    CollectionChange,
    CollectionsAnswer,
    CountAnswer,
    StatsAnswer,
)
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service
from embank.store.info import CollectionInfo

router = APIRouter(tags=["collections"], route_class=ScopedRoute)

Name = Annotated[str, Path(min_length=1, max_length=128, examples=["notes"])]


@router.get("/collections", openapi_extra=needs("read"))
async def every(request: Request) -> CollectionsAnswer:
    """All collections, by name."""
    service: Service = request.app.state.service
    infos = await service.workers.run(service.bank.collections)
    return CollectionsAnswer(collections=[_answer(info) for info in infos])


@router.post("/collections", status_code=201, openapi_extra=needs("write"))
async def create(request: Request, asked: CollectionAsked) -> CollectionAnswer:
    """Make a collection; one that is there already must have the same metric, and takes another language over."""
    service: Service = request.app.state.service

    def make() -> CollectionInfo:
        service.bank.collection(asked.name, metric=asked.metric, language=asked.language)
        store = service.bank.engine.store
        return store.collection(asked.name).ensure(dtype=service.bank.config.section("store").dtype)

    return _answer(await service.workers.run(make))


@router.get("/collections/{name}", openapi_extra=needs("read"))
async def show(request: Request, name: Name) -> CollectionAnswer:
    """What is recorded of a collection: one row is read, whatever its size."""
    service: Service = request.app.state.service
    return _answer(await service.workers.run(_info, service, name))


@router.patch("/collections/{name}", openapi_extra=needs("admin"))
async def change(request: Request, name: Name, asked: CollectionChange) -> CollectionAnswer:
    """Protect a collection: documents that exist then refuse every change. Or allow changes again."""
    service: Service = request.app.state.service

    def act() -> CollectionInfo:
        service.collection(name).protect(protected=asked.protected)
        return _info(service, name)

    return _answer(await service.workers.run(act))


@router.get("/collections/{name}/count", openapi_extra=needs("read"))
async def count(request: Request, name: Name) -> CountAnswer:
    """How many documents a collection has."""
    service: Service = request.app.state.service
    return CountAnswer(count=(await service.workers.run(_info, service, name)).documents)


@router.get("/stats", openapi_extra=needs("read"))
async def stats(request: Request) -> StatsAnswer:
    """What the bank holds, and its bytes on the disk."""
    service: Service = request.app.state.service
    found = await service.workers.run(service.bank.stats)
    return StatsAnswer(
        documents=found.documents,
        chunks=found.chunks,
        collections=[_answer(info) for info in found.collections],
        disk_bytes=found.disk_bytes,
    )


def _info(service: Service, name: str) -> CollectionInfo:
    info = service.collection(name).stats()
    if info is None:
        raise AssertionError("a collection that exists has a record")
    return info


def _answer(info: CollectionInfo) -> CollectionAnswer:
    return CollectionAnswer.model_validate(info.as_dict())

"""Search. What a request says becomes the options of `Collection.search` here, and nowhere else."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request

from embank.bank import LocalCollection
from embank.client.schemas import HitAnswer, SearchAnswer, SearchAsked
from embank.http.routes.collections import Name
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service
from embank.records import Hit

router = APIRouter(tags=["search"], route_class=ScopedRoute)


@router.post("/collections/{name}/search", openapi_extra=needs("read"))
async def search(request: Request, name: Name, asked: SearchAsked) -> SearchAnswer:
    """The best documents for a question in words, or for a vector, each with its best passage."""
    service: Service = request.app.state.service
    started_s = service.clock.monotonic()
    hits = await service.workers.run(lambda: found(service.collection(name), asked))
    return SearchAnswer(
        hits=[HitAnswer.model_validate(asdict(hit)) for hit in hits],
        degraded=any(hit.degraded for hit in hits),
        seconds=service.clock.monotonic() - started_s,
    )


def found(collection: LocalCollection, asked: SearchAsked) -> list[Hit]:
    """The one place where a request is mapped to a search."""
    return collection.search(asked.query, vector=asked.vector, k=asked.k, where=asked.where, mode=asked.mode)

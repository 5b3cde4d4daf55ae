"""Search. What a request says becomes the options of `Collection.search` here, and nowhere else."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from embank.bank import LocalCollection
from embank.client.schemas import HitAnswer, SearchAnswer, SearchAsked
from embank.http.routes.collections import Name
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service
from embank.records import MAX_DEPTH, Hit, Page
from embank.search.query import Options

router = APIRouter(tags=["search"], route_class=ScopedRoute)


_fields = tuple(HitAnswer.model_fields)
_values = attrgetter(*_fields)


@router.post("/collections/{name}/search", response_model=SearchAnswer, openapi_extra=needs("read"))
async def search(request: Request, name: Name, asked: SearchAsked) -> Response:
    """The best documents for a question in words, or for a vector, each with its best passage."""
    return Response(await searched(request.app.state.service, name, asked), media_type="application/json")


async def searched(service: Service, name: str, asked: SearchAsked) -> bytes:
    """The answer as JSON: a `SearchAnswer`."""
    started_s = service.clock.monotonic()

    def work() -> bytes:
        page = found(service.collection(name), asked)
        answer = {
            "hits": [dict(zip(_fields, _values(hit), strict=True)) for hit in page.hits],
            "after": page.after,
            "degraded": any(hit.degraded for hit in page.hits),
            "seconds": service.clock.monotonic() - started_s,
            "explained": page.explained,
        }
        return to_json(answer)

    return await service.searches.run(work)


def found(collection: LocalCollection, asked: SearchAsked) -> Page:
    """The one place where a request is mapped to a search. It is the first of many pages, where there can be more."""
    options: Options = {
        "min_score": asked.min_score,
        "highlight": asked.highlight,
        "neighbors": asked.neighbors,
        "explain": asked.explain,
        "per_document": asked.per_document,
        "diversity": asked.diversity,
        "rerank": asked.rerank,
        "dense_weight": asked.dense_weight,
    }
    if asked.after is None and (asked.per_document != 1 or asked.k > MAX_DEPTH):
        plain: dict[str, Any] = {"k": asked.k, "where": asked.where, "mode": asked.mode, **options}
        if asked.like is None:
            return _alone(collection.search(asked.query, vector=asked.vector, **plain))
        if asked.query is None and asked.vector is None:
            return _alone(collection.like(asked.like, **plain))
    return collection.search_page(
        asked.query,
        vector=asked.vector,
        like=asked.like,
        k=asked.k,
        after=asked.after,
        where=asked.where,
        mode=asked.mode,
        **options,
    )


def _alone(hits: list[Hit]) -> Page:
    """An answer with no page behind it."""
    return Page(hits, None, dict(hits[0].explained or {}).get("search") if hits else None)

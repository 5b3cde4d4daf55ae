"""Search. What a request says becomes the options of `Collection.search` here, and nowhere else."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request

from embank.bank import LocalCollection
from embank.client.schemas import HitAnswer, SearchAnswer, SearchAsked
from embank.http.routes.collections import Name
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service
from embank.search.pages import MAX_DEPTH, Page
from embank.search.query import Options

router = APIRouter(tags=["search"], route_class=ScopedRoute)


@router.post("/collections/{name}/search", openapi_extra=needs("read"))
async def search(request: Request, name: Name, asked: SearchAsked) -> SearchAnswer:
    """The best documents for a question in words, or for a vector, each with its best passage."""
    service: Service = request.app.state.service
    started_s = service.clock.monotonic()
    page = await service.workers.run(lambda: found(service.collection(name), asked))
    return SearchAnswer(
        hits=[HitAnswer.model_validate(asdict(hit)) for hit in page.hits],
        after=page.after,
        degraded=any(hit.degraded for hit in page.hits),
        seconds=service.clock.monotonic() - started_s,
    )


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
    if asked.after is None and asked.like is None and (asked.per_document != 1 or asked.k > MAX_DEPTH):
        hits = collection.search(
            asked.query, vector=asked.vector, k=asked.k, where=asked.where, mode=asked.mode, **options
        )
        return Page(hits, None)
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

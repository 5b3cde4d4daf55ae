"""Documents: written, got, listed, deleted, and imported in large numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from embank.client.schemas import (
    DeleteAnswer,
    DeleteAsked,
    DocumentAnswer,
    DocumentAsked,
    DocumentsAnswer,
    GetAsked,
    JobAnswer,
    ListAsked,
    UpsertAnswer,
    UpsertAsked,
)
from embank.given import document
from embank.http.errors import Refusal
from embank.http.intake import Intake
from embank.http.jobs import Tell, Work
from embank.http.lines import Lines, SentSource
from embank.http.routes.collections import Name
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service
from embank.records import Document
from embank.store.metric import Metric
from embank.store.protocol import StoredDocument

router = APIRouter(prefix="/collections/{name}", tags=["documents"], route_class=ScopedRoute)

_LINES: dict[str, Any] = {
    **needs("write"),
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}, "example": '{"id": "a1", "text": "Silt."}\n'}
        },
    },
}


@router.post("/documents", openapi_extra=needs("write"))
async def upsert(request: Request, name: Name, asked: UpsertAsked) -> UpsertAnswer:
    """Write documents by their ids; the answer comes when they are durable and every search sees them.

    The collection comes into being with its first document. Either all of them are written or none.
    """
    service: Service = request.app.state.service
    most = service.settings.batch_limit
    if len(asked.documents) > most:
        raise Refusal(
            413,
            "too_many",
            f"documents: {len(asked.documents)} at once, at most {most} are taken (http.batch_limit): send them in "
            f"several requests, or as an import",
            param="documents",
        )

    def write() -> UpsertAnswer:
        listed = [_document(each) for each in asked.documents]
        collection = service.bank.collection(name)
        report = collection.add(listed, vectors=asked.vectors, space=asked.space)
        told = {**report.as_dict(), "ids": [each.id for each in listed]}
        return UpsertAnswer.model_validate(told)

    return await service.workers.run(write)


@router.post("/documents/get", openapi_extra=needs("read"))
async def get(request: Request, name: Name, asked: GetAsked) -> DocumentsAnswer:
    """The documents of these ids, in that order; 404 names those that are missing."""
    service: Service = request.app.state.service
    found = await service.workers.run(lambda: service.collection(name).get(asked.ids))
    return DocumentsAnswer(documents=[_answer(each) for each in found])


@router.post("/documents/list", openapi_extra=needs("read"))
async def listing(request: Request, name: Name, asked: ListAsked) -> DocumentsAnswer:
    """Documents in the order of their ids, a page at a time: `next` is the `after` of the next page."""
    service: Service = request.app.state.service
    found = await service.workers.run(
        lambda: service.collection(name).list(limit=asked.limit, after=asked.after, where=asked.where)
    )
    is_full = len(found) == asked.limit
    return DocumentsAnswer(documents=[_answer(each) for each in found], next=found[-1].id if is_full else None)


@router.post("/documents/delete", openapi_extra=needs("write"))
async def delete(request: Request, name: Name, asked: DeleteAsked) -> DeleteAnswer:
    """Delete documents by their ids or by a filter. Ids that do not exist are fine."""
    service: Service = request.app.state.service
    gone = await service.workers.run(lambda: service.collection(name).delete(asked.ids, where=asked.where))
    return DeleteAnswer(deleted=gone)


@router.post("/imports", status_code=202, openapi_extra=_LINES)
async def import_(request: Request, response: Response, name: Name) -> JobAnswer:
    """Write any number of documents, one JSON object a line, as a job: the answer comes when all lines are here.

    Lines are written in groups. At the first that is no document the job fails and names it; what was committed stays.
    """
    service: Service = request.app.state.service
    lines = await _received(request)
    work = partial(_import, service, name, lines)
    return _begun(service, response, name, "import", work, lines=lines)


@router.post("/index", status_code=202, openapi_extra=_LINES)
async def index(
    request: Request,
    response: Response,
    name: Name,
    *,
    root: Annotated[str, Query(min_length=1, max_length=4_096)],
    prune: Annotated[bool, Query()] = False,
    metric: Annotated[Metric | None, Query()] = None,
) -> JobAnswer:
    """Bring a collection in step with a source that the caller has read, as a job; `embank index` sends this.

    A line is a document with `id`, `text`, `metadata` and `origin`, or `{"skip": [origin, reason, detail]}`. What came
    from `root` before and is not among the lines has vanished: it stays and is counted, unless `prune`.
    """
    service: Service = request.app.state.service
    lines = await _received(request)
    work = partial(_index, service, name, lines, root, prune=prune, metric=metric)
    return _begun(service, response, name, "index", work, lines=lines)


@router.get("/documents/{id:path}", openapi_extra=needs("read"))
async def get_one(request: Request, name: Name, id: str) -> DocumentAnswer:  # noqa: A002 -- the path's own word
    """One document."""
    service: Service = request.app.state.service
    found = await service.workers.run(lambda: service.collection(name).get(id))
    return _answer(found[0])


async def _received(request: Request) -> Lines:
    """All lines of the body, in a file."""
    service: Service = request.app.state.service
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-ndjson":
        raise Refusal(415, "wrong_content_type", "send one JSON object a line as application/x-ndjson")
    intake: Intake = request.state.intake
    intake.streams(service.settings.import_limit.resolve(1 << 40))
    lines = await service.workers.run(Lines, service.bank.path)
    try:
        async for piece in request.stream():
            await service.workers.run(lines.write, piece)
    except BaseException:
        lines.close()
        raise
    return lines


def _begun(
    service: Service,
    response: Response,
    name: str,
    work: Work,
    do: Callable[[Tell], Mapping[str, Any]],
    *,
    lines: Lines,
) -> JobAnswer:
    try:
        id_ = service.jobs.start(work, name, do, at_end=lines.close)
    except BaseException:
        lines.close()
        raise
    response.headers["location"] = f"/jobs/{id_}"
    return service.jobs.get(id_)


def _import(service: Service, name: str, lines: Lines, tell: Tell) -> Mapping[str, Any]:
    """The work of an import's job."""
    report = service.bank.collection(name).add(
        (_document(line.read_as(DocumentAsked)) for line in lines),
        on_progress=lambda live: tell(
            {"documents": live.seen, "bytes": lines.bytes_done, "bytes_total": lines.bytes_total}
        ),
    )
    return report.as_dict()


def _index(
    service: Service, name: str, lines: Lines, root: str, tell: Tell, *, prune: bool, metric: str | None
) -> Mapping[str, Any]:
    """The work of an index's job, whose progress is the report as it is."""
    report = service.bank.collection(name, metric=metric).index(
        lambda on_skip: SentSource(root, lines, on_skip), prune=prune, on_progress=lambda live: tell(live.as_dict())
    )
    return report.as_dict()


def _document(asked: DocumentAsked) -> Document:
    fields = {"text": asked.text, "metadata": asked.metadata}
    return document(fields if asked.id is None else {**fields, "id": asked.id})


def _answer(stored: StoredDocument) -> DocumentAnswer:
    return DocumentAnswer.model_validate(stored.as_dict())

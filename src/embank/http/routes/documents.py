"""Documents: written, got, listed, deleted, and imported in large numbers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

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
from embank.errors import InvalidInput
from embank.given import document
from embank.http.errors import Refusal
from embank.http.intake import Intake
from embank.http.jobs import Tell
from embank.http.routes.collections import Name
from embank.http.security import ScopedRoute, needs
from embank.http.service import Service
from embank.records import Document
from embank.store.protocol import StoredDocument

router = APIRouter(prefix="/collections/{name}", tags=["documents"], route_class=ScopedRoute)

_LINE_BYTES = 16 << 20


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
        return UpsertAnswer(
            ids=[each.id for each in listed],
            added=report.added,
            updated=report.updated,
            relabeled=report.relabeled,
            unchanged=report.unchanged,
            duplicates=report.duplicates,
            chunks=report.chunks,
            seconds=report.seconds,
        )

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


@router.post(
    "/imports",
    status_code=202,
    openapi_extra={
        **needs("write"),
        "requestBody": {
            "required": True,
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}, "example": '{"id": "a1", "text": "Silt."}\n'}
            },
        },
    },
)
async def import_(request: Request, response: Response, name: Name) -> JobAnswer:
    """Write any number of documents, one JSON object a line, as a job: the answer comes when all lines are here.

    Lines are written in groups. At the first that is no document the job fails and names it; what was committed stays.
    """
    service: Service = request.app.state.service
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-ndjson":
        raise Refusal(415, "wrong_content_type", "send one JSON object a line as application/x-ndjson")
    intake: Intake = request.state.intake
    intake.streams(service.settings.import_limit.resolve(1 << 40))
    # Beside the bank's own files, so that it is on a disk with room, and unnamed, so that no crash leaves it behind.
    lines: Any = await service.workers.run(partial(tempfile.TemporaryFile, dir=service.bank.path))
    try:
        async for piece in request.stream():
            await service.workers.run(lines.write, piece)
        work = partial(_import, service, name, lines, intake.received_bytes)
        id_ = service.jobs.start("import", name, work, at_end=lines.close)
    except BaseException:
        lines.close()
        raise
    response.headers["location"] = f"/jobs/{id_}"
    return service.jobs.get(id_)


@router.get("/documents/{id:path}", openapi_extra=needs("read"))
async def get_one(request: Request, name: Name, id: str) -> DocumentAnswer:  # noqa: A002 -- the path's own word
    """One document."""
    service: Service = request.app.state.service
    found = await service.workers.run(lambda: service.collection(name).get(id))
    return _answer(found[0])


def _import(service: Service, name: str, lines: BinaryIO, size: int, tell: Tell) -> Mapping[str, Any]:
    """The work of an import's job."""
    lines.seek(0)
    report = service.bank.collection(name).add(
        _documents(lines),
        on_progress=lambda live: tell({"documents": live.seen, "bytes": lines.tell(), "bytes_total": size}),
    )
    return report.as_dict()


def _documents(lines: BinaryIO) -> Iterator[Document]:
    number = 0
    while line := lines.readline(_LINE_BYTES + 1):
        number += 1
        if len(line) > _LINE_BYTES:
            raise InvalidInput(f"line {number} has more than {_LINE_BYTES} bytes", line=number)
        if line.strip():
            try:
                yield _document(DocumentAsked.model_validate(json.loads(line)))
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"]))
                raise InvalidInput(f"line {number} is no document: {place} {first['msg']}", line=number) from error
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"line {number} is no JSON: {error}", line=number) from error


def _document(asked: DocumentAsked) -> Document:
    fields = {"text": asked.text, "metadata": asked.metadata}
    return document(fields if asked.id is None else {**fields, "id": asked.id})


def _answer(stored: StoredDocument) -> DocumentAnswer:
    return DocumentAnswer.model_validate(stored.as_dict())

"""What a server tells, made again into the records that an open bank answers with. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

from pydantic import BaseModel, TypeAdapter

from embank.client.schemas import CollectionAnswer, DocumentsAnswer, SearchAnswer, UpsertAnswer
from embank.records import Hit, IngestReport, StoredDocument
from embank.store.info import CollectionInfo

T = TypeVar("T")


def made(kind: type[T], told: Mapping[str, Any]) -> T:
    """A record of `kind` from what a server told of it; fields that are not its own are left out."""
    own = [each.name for each in fields(cast("Any", kind))]
    return TypeAdapter(kind).validate_python({name: told[name] for name in own if name in told})


def info(told: CollectionAnswer) -> CollectionInfo:
    """What is recorded of a collection."""
    return CollectionInfo(**_own(CollectionInfo, told))


def hits(told: SearchAnswer) -> list[Hit]:
    """The documents found."""
    return [Hit(**{**_own(Hit, each), "highlights": tuple(each.highlights)}) for each in told.hits]


def documents(told: DocumentsAnswer) -> list[StoredDocument]:
    """Documents as they are kept."""
    return [StoredDocument(**_own(StoredDocument, each)) for each in told.documents]


def report(collection: str, told: Sequence[UpsertAnswer]) -> IngestReport:
    """One report of what several requests wrote."""
    counted = (
        "seen", "added", "updated", "relabeled", "unchanged", "duplicates", "conflicts", "chunks", "commits", "seconds",
    )  # fmt: skip
    sums = {name: sum(getattr(each, name) for each in told) for name in counted}
    skipped: dict[str, int] = {}
    for each in told:
        for reason, count in each.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    samples = [sample for each in told for sample in each.samples]
    return made(IngestReport, {**sums, "collection": collection, "skipped": skipped, "samples": samples})


def _own(kind: type, told: BaseModel) -> dict[str, Any]:
    """The fields of `kind`. The answer is checked already, and there may be thousands of them."""
    return {each.name: getattr(told, each.name) for each in fields(kind)}

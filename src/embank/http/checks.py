"""What health looks at: in passing, and deeply, by doing what the service is there for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from embank.client.inspection import CheckAnswer
from embank.errors import EmbankError

if TYPE_CHECKING:
    from embank.http.service import Service

COLLECTION = "embank-health"
_TEXT = "A document that shows whether this service writes and searches."
_LEAST_DISK_BYTES = 64 << 20


def reasons(service: Service) -> list[str]:
    """Why no requests should be sent; cheap, and blocks for nothing."""
    why = []
    if service.draining:
        why.append("it is being stopped")
    if service.model_error:
        why.append(f"model: {service.model_error}")
    return why


def shallow_checks(service: Service) -> list[CheckAnswer]:
    """The database is read; room on the disk and memory are measured. Blocks for milliseconds."""
    return [
        _check(service, "store", lambda: f"{len(service.bank.collections())} collections"),
        _check(service, "disk", lambda: _disk(service)),
        _check(service, "memory", lambda: _memory(service)),
    ]


def deep_checks(service: Service) -> list[CheckAnswer]:
    """The same, and a text embedded that no cache has, a document written durably, found, and read."""
    return [
        *shallow_checks(service),
        _check(service, "embed", lambda: _embed(service)),
        _check(service, "write and search", lambda: _write_and_search(service)),
    ]


class _Wrong(Exception):
    """A check found what should not be."""


def _check(service: Service, name: str, look: Callable[[], str]) -> CheckAnswer:
    started_s = service.clock.monotonic()
    try:
        ok, detail = True, look()
    except (EmbankError, _Wrong, OSError) as error:
        ok, detail = False, str(error)
    return CheckAnswer(name=name, ok=ok, seconds=service.clock.monotonic() - started_s, detail=detail)


def _disk(service: Service) -> str:
    free_bytes = service.bank.engine.files.free_bytes(service.bank.path)
    if free_bytes < _LEAST_DISK_BYTES:
        raise _Wrong(f"only {free_bytes} bytes are left on the bank's disk")
    return f"{free_bytes} bytes free"


def _memory(service: Service) -> str:
    state = service.bank.memory()
    top = state.rungs[-1] if state.rungs else None
    if top is not None and top.active:
        raise _Wrong(f"new work is refused: {state.real_bytes} of {state.budget_bytes} bytes are held")
    return f"{state.real_bytes} of {state.budget_bytes} bytes"


def _embed(service: Service) -> str:
    model = service.bank.engine.models.default()
    vectors = model.embed([f"{_TEXT} {secrets.token_hex(8)}"], "passage")
    if vectors.shape != (1, model.dimension) or not np.isclose(np.linalg.norm(vectors), 1.0, atol=1e-3):
        raise _Wrong(f"the model answered with the shape {vectors.shape} and the length {np.linalg.norm(vectors)}")
    return f"{model.fingerprint}"


def _write_and_search(service: Service) -> str:
    """One document, whose text stays: it is embedded once, and each check writes but its metadata anew."""
    mark = secrets.token_hex(8)
    collection = service.bank.collection(COLLECTION)
    collection.add([{"id": "probe", "text": _TEXT, "metadata": {"mark": mark}}])
    hits = collection.search(_TEXT, k=1, where={"mark": mark})
    if [hit.id for hit in hits] != ["probe"]:
        raise _Wrong("what was written durably was not found")
    if collection.get("probe")[0].metadata != {"mark": mark}:
        raise _Wrong("what was written durably is read otherwise")
    return "written, found and read"

"""Which error ends in which HTTP status, and how it is told: the one place for both, and one shape everywhere.

The shape is that of OpenAI's errors, so that their clients read it: `{"error": {message, type, param, code}}`, with the
request's id and the facts that the message names. What nobody foresaw is told as such, without its traceback: that is
in the server's log, under the request's id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from embank.client.schemas import ErrorAnswer, ErrorBody
from embank.errors import (
    BankLocked,
    BankReadOnly,
    BudgetExceeded,
    CollectionNotFound,
    ConfigError,
    DocumentNotFound,
    EmbankError,
    FingerprintMismatch,
    InvalidInput,
    MemoryBudgetError,
    MetricMismatch,
    MissingExtra,
    ModelError,
    ProtectedCollectionError,
    SourceError,
    StorageFull,
    StoreError,
)

if TYPE_CHECKING:
    from fastapi.exceptions import RequestValidationError

RETRY_S = 1
"""What Retry-After says where nobody knows better."""

# The first class that fits decides, so a branch stands after its leaves.
_STATUSES: tuple[tuple[type[EmbankError], int], ...] = (
    (CollectionNotFound, 404),
    (DocumentNotFound, 404),
    (ProtectedCollectionError, 403),
    (BankReadOnly, 403),
    (FingerprintMismatch, 409),
    (MetricMismatch, 409),
    (BankLocked, 503),
    (StorageFull, 507),
    (InvalidInput, 400),
    (SourceError, 400),
    (MemoryBudgetError, 429),
    (ModelError, 503),
    (MissingExtra, 501),
    (ConfigError, 500),
    (StoreError, 500),
    (EmbankError, 500),
)

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "overloaded_error",
    503: "overloaded_error",
}
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}

_MOST_FIELD_CHARACTERS = 2_000


class Refusal(HTTPException):
    """A request that is refused for what it is, not for what the bank says to it.

    An `HTTPException`, since only those get through from within the reading of a body. `ends`: the connection, too.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_s: int | None = None,
        param: str | None = None,
        ends: bool = False,
    ) -> None:
        headers = {} if retry_s is None else {"retry-after": str(retry_s)}
        if ends:
            headers["connection"] = "close"
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code = code
        self.param = param


def status_of(error: EmbankError) -> int:
    """The status that an error of the tree ends in. 413 where what is asked for exceeds the whole budget."""
    if isinstance(error, BudgetExceeded) and error.fields["wanted_bytes"] > error.fields["budget_bytes"]:
        return 413
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


def told(error: BaseException, request_id: str | None) -> tuple[int, ErrorAnswer, dict[str, str]]:
    """Status, body and further headers of the answer that tells of `error`."""
    if isinstance(error, EmbankError):
        status = status_of(error)
        body = _body(status, error.message, code=error.code(), fields=_plain(error.fields))
    elif isinstance(error, Refusal):
        status, body = (
            error.status_code,
            _body(error.status_code, str(error.detail), code=error.code, param=error.param),
        )
    elif isinstance(error, HTTPException):
        status = error.status_code
        body = _body(status, str(error.detail), code=_CODES.get(status, "refused"))
    else:
        status = 500
        body = _body(status, "an error that nobody foresaw; the server's log has it", code="internal_error")
    headers = dict(getattr(error, "headers", None) or {})
    if status in (429, 503):
        headers.setdefault("retry-after", str(RETRY_S))
    return status, ErrorAnswer(error=body.model_copy(update={"request_id": request_id})), headers


def unfit(error: RequestValidationError, request_id: str | None) -> tuple[int, ErrorAnswer, dict[str, str]]:
    """The same for a request that is not of the form asked for: its first fault is told, and how many there are."""
    faults = error.errors()
    first = faults[0]
    param = ".".join(str(part) for part in _place(first["loc"])) or None
    if first["type"] == "json_invalid":
        # The position is that of the fault in the text, not a name.
        message, param = f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}", None
    else:
        what = str(first["msg"]).removeprefix("Value error, ")
        message = f"{param}: {what}" if param else f"the body {what[:1].lower()}{what[1:]}"
        if len(faults) > 1:
            message += f" (and {len(faults) - 1} more like it)"
    body = _body(400, message, code="invalid_request", param=param)
    return 400, ErrorAnswer(error=body.model_copy(update={"request_id": request_id})), {}


def encoded(answer: ErrorAnswer) -> bytes:
    """The body of an error's answer, as JSON. Lone surrogates, which JSON can name and UTF-8 can't, are escaped."""
    return json.dumps(answer.model_dump(), ensure_ascii=True, allow_nan=False).encode()


def _place(location: Sequence[Any]) -> Sequence[Any]:
    return location[1:] if location[:1] in (("body",), ("query",), ("path",), ("header",)) else location


def _body(
    status: int, message: str, *, code: str, param: str | None = None, fields: Mapping[str, Any] | None = None
) -> ErrorBody:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ErrorBody(message=message, type=kind, code=code, param=param, fields=dict(fields or {}))


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as JSON takes them, none of them long."""
    return {key: value for key, value in ((key, _fact(value)) for key, value in fields.items()) if value is not None}


def _fact(value: Any) -> Any:
    if isinstance(value, list | tuple | set | frozenset):
        return [str(each)[:_MOST_FIELD_CHARACTERS] for each in list(value)[:100]]
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)[:_MOST_FIELD_CHARACTERS]

"""What is made of an answer: its value, an error, or another try; decided here for both clients. Pure functions."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from embank.client.calls import Call
from embank.client.schemas import ErrorAnswer
from embank.errors import EmbankError, InvalidInput, ServiceError, ServiceUnreachable

T = TypeVar("T", bound=BaseModel)

_AGAIN = frozenset({408, 429, 502, 503, 504})
_UNTOUCHED = frozenset({408, 429, 503})
"""Statuses by which the server says that it did nothing."""
_LONGEST_S = 30.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is sent again, and how long is waited where the server does not say.

    The wait doubles from `first_s` on, with a random part, so that many clients do not come back at once.
    """

    most: int = 4
    first_s: float = 0.25

    def wait_s(self, tried: int, told_s: float | None) -> float:
        """The pause before the next try, after `tried` of them; what the server said comes first."""
        if told_s is not None:
            return min(told_s, _LONGEST_S)
        return float(min(self.first_s * 2 ** (tried - 1), _LONGEST_S) * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret


def value(call: Call[T], status: int, body: bytes) -> T:
    """What the answer holds. Raises `ServiceError` for one that tells of an error, or can't be read."""
    if status >= 400 and not (status == 503 and call.path == "/healthz"):  # a health that fails is an answer, too
        raise _error(status, body)
    try:
        return call.answer.model_validate_json(body)
    except ValidationError as error:
        raise ServiceError(
            f"the answer to {call.method} {call.path} can't be read: {error.error_count()} faults; is this an Embank "
            f"server?",
            status=status,
        ) from error


def pause_s(
    call: Call[T], retries: Retries, tried: int, status: int | None, headers: Mapping[str, str]
) -> float | None:
    """How long to wait before the next try; `None` where there is to be none. `status` is None without an answer."""
    if tried > retries.most or (status is not None and status not in _AGAIN):
        return None
    if not call.again and status not in _UNTOUCHED:
        return None
    return retries.wait_s(tried, _told_s(headers))


def unreachable(url: str, error: Exception) -> ServiceUnreachable:
    """The error for a server that gave no answer."""
    return ServiceUnreachable(f"no answer from {url}: {str(error) or type(error).__name__}", url=url)


def _told_s(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0) if text else None
    except ValueError:
        return None


def _error(status: int, body: bytes) -> ServiceError:
    try:
        told = ErrorAnswer.model_validate_json(body).error
    except ValidationError:
        return ServiceError(f"the server answered {status}: {body[:200].decode(errors='replace')}", status=status)
    return ServiceError(
        told.message, status=status, code=told.code, param=told.param, request_id=told.request_id, facts=told.fields
    )


def revived(error: ServiceError) -> EmbankError:
    """The error that the server met, as if it had been met here; `error` itself where it is the service's own."""
    code = str(error.fields.get("code") or "")
    if code in _UNFIT:
        return InvalidInput(error.message, **error.fields.get("facts") or {})
    kind = next((kind for kind in _tree(EmbankError) if kind.code() == code), None)
    if kind is None or issubclass(kind, ServiceError):
        return error
    made = kind.__new__(kind)  # some take other arguments than a message and the facts it names
    EmbankError.__init__(made, error.message, **error.fields.get("facts") or {})
    return made


_UNFIT = frozenset({"invalid_request", "too_large", "too_many"})
"""What a server calls a request that it can't take for what is in it."""


def _tree(kind: type[EmbankError]) -> Iterator[type[EmbankError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)

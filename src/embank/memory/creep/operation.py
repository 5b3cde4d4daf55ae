"""One kind of operation, as its callers mark it: a context manager and a decorator in one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from embank.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])


class Operation:
    """Tells `ended` the kind whenever an operation ends, also by an exception, and `begun`, if set, when one begins.

    Keeps nothing, so any number may be under way at once, in any thread or task.

    As a decorator it takes functions and async functions; not generators, whose call ends before their work begins.
    """

    __slots__ = ("_ended", "begun", "kind")

    def __init__(self, kind: str, ended: Callable[[str], None], *, begun: Callable[[str], None] | None = None) -> None:
        self.kind = kind
        self.begun = begun
        self._ended = ended

    def __enter__(self) -> None:
        begun = self.begun
        if begun is not None:
            begun(self.kind)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended(self.kind)

    def __call__(self, function: F) -> F:
        """The function, each call of which is an operation."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidInput(
                f"{function.__qualname__} is a generator, and its call ends before its work begins: "
                f"mark what it does with `with track({self.kind!r}):`"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]  # the same signature, which the checker can't see

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return called  # type: ignore[return-value]  # likewise

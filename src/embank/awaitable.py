"""A bank for async programs: `Bank` and its collections, with methods that are awaited and run in threads.

    async with embank.aopen("my.bank", memory="512MB") as bank:
        notes = await bank.collection("notes")
        await notes.add([{"id": "a1", "text": "Rivers carry silt."}])
        hits = await notes.search("what do rivers carry?", k=5)

The methods are those of the classes behind, by name: what they take, answer and raise is told there. Work that an await
was cancelled from goes on in its thread to its end; what had not begun does not begin.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from embank.bank import Bank, LocalCollection, open_bank

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8


class Threaded(Generic[P, T]):
    """A method of the object behind, called in a thread."""

    def __init__(self, method: Callable[Concatenate[Any, P], T]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, owner: _Wrapper, kind: type) -> Callable[P, Awaitable[T]]:
        return partial(owner.run, self._method, owner.behind)


class _Wrapper:
    """What stands before one object: `behind` is it, `pool` the threads."""

    def __init__(self, behind: Any, pool: ThreadPoolExecutor) -> None:
        self.behind = behind
        self.pool = pool

    async def run(self, method: Callable[..., T], *args: Any, **options: Any) -> T:
        """What `method` returns, called in a thread with this task's context."""
        context = contextvars.copy_context()
        return await asyncio.wrap_future(self.pool.submit(context.run, partial(method, *args, **options)))


class AsyncCollection(_Wrapper):
    """`LocalCollection`, awaited."""

    add = Threaded(LocalCollection.add)
    index = Threaded(LocalCollection.index)
    search = Threaded(LocalCollection.search)
    get = Threaded(LocalCollection.get)
    list = Threaded(LocalCollection.list)
    delete = Threaded(LocalCollection.delete)
    count = Threaded(LocalCollection.count)
    stats = Threaded(LocalCollection.stats)
    protect = Threaded(LocalCollection.protect)
    purge = Threaded(LocalCollection.purge)
    compact = Threaded(LocalCollection.compact)
    reembed = Threaded(LocalCollection.reembed)
    export = Threaded(LocalCollection.export)
    import_file = Threaded(LocalCollection.import_file)

    @property
    def name(self) -> str:
        return str(self.behind.name)

    def __repr__(self) -> str:
        return f"AsyncCollection({self.name!r})"


class AsyncBank(_Wrapper):
    """`Bank`, awaited; made by `embank.aopen`. `behind` is the bank itself, for what doesn't block."""

    collections = Threaded(Bank.collections)
    stats = Threaded(Bank.stats)
    memory = Threaded(Bank.memory)
    cache = Threaded(Bank.cache)
    clear_cache = Threaded(Bank.clear_cache)
    warm = Threaded(Bank.warm)
    drop = Threaded(Bank.drop)
    audit = Threaded(Bank.audit)
    verify = Threaded(Bank.verify)
    backup = Threaded(Bank.backup)
    release = Threaded(Bank.release)

    async def collection(
        self, name: str = "default", *, metric: str | None = None, language: str | None = None
    ) -> AsyncCollection:
        """See `Bank.collection`."""
        found = await self.run(self.behind.collection, name, metric=metric, language=language)
        return AsyncCollection(found, self.pool)

    async def close(self) -> None:
        """Close the bank once the calls under way have ended."""
        await asyncio.to_thread(self.pool.shutdown)
        await asyncio.to_thread(self.behind.close)


class Opening:
    """A bank that is being opened: awaited, or entered with `async with`, which closes it at the end."""

    def __init__(self, open_it: Callable[[], Bank], threads: int) -> None:
        self._open = open_it
        self._threads = threads
        self._bank: AsyncBank | None = None

    def __await__(self) -> Generator[Any, None, AsyncBank]:
        return self._opened().__await__()

    async def __aenter__(self) -> AsyncBank:
        self._bank = await self._opened()
        return self._bank

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bank is not None:
            await self._bank.close()

    async def _opened(self) -> AsyncBank:
        bank = await asyncio.to_thread(self._open)
        return AsyncBank(bank, ThreadPoolExecutor(self._threads, thread_name_prefix="embank-async"))


def aopen(*args: Any, threads: int = _THREADS, **options: Any) -> Opening:
    """Open a bank for an async program: what `embank.open` takes, and how many calls run at once."""
    return Opening(partial(open_bank, *args, **options), threads)

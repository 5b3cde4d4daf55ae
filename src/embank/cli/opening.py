"""How a command gets at a bank: the one place where a running server can take the local files' place.

Commands see `OpenBank` and `Collection`, never how they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from embank.errors import CollectionNotFound
from embank.registry import nearest

if TYPE_CHECKING:
    from embank.caches import CachesSnapshot
    from embank.cli.options import Invocation
    from embank.collection import Collection
    from embank.events.stream import Stream
    from embank.memory.governor import MemorySnapshot
    from embank.store.dropping import OnDropProgress
    from embank.store.info import BankStats, CollectionInfo
    from embank.store.reports import DropReport

Use = Literal["read", "change", "create"]
"""`read` works beside a process that writes; `change` writes to a bank that must exist; `create` may make one."""


class OpenBank(Protocol):
    """What commands use of a bank, wherever it is kept."""

    @property
    def path(self) -> Path: ...

    def collection(
        self, name: str = "default", *, metric: str | None = None, language: str | None = None
    ) -> Collection: ...

    def collections(self) -> list[CollectionInfo]: ...

    def drop(self, name: str, *, dry_run: bool = False, on_progress: OnDropProgress | None = None) -> DropReport: ...

    def stats(self) -> BankStats: ...

    def memory(self) -> MemorySnapshot: ...

    def cache(self) -> CachesSnapshot: ...

    def clear_cache(self) -> int: ...

    def warm(self) -> None: ...

    @property
    def events(self) -> Stream: ...


@contextmanager
def open_bank(invocation: Invocation, use: Use, *, tells_loads: bool = False) -> Iterator[OpenBank]:
    """The bank of this invocation, open until the block ends.

    `tells_loads`: standard error says that a model is being loaded where that takes long, for commands that show no
    progress of their own.

    Raises `BankNotFound` unless `use` is "create", and `BankLocked`, unless it is "read", where another process writes.
    """
    config = invocation.config()
    from embank.bank import open_bank as open_local

    if use == "change":
        from embank.store.schema import check_format

        check_format(invocation.bank)
    opened = open_local(invocation.bank, config=config, read_only=use == "read", own_process=True)
    from embank.cli.loading import telling_loads

    with opened, telling_loads(opened.events, quiet=invocation.as_json or not tells_loads):
        yield opened


@contextmanager
def open_collection(invocation: Invocation, name: str, use: Use, *, tells_loads: bool = False) -> Iterator[Collection]:
    """A collection that exists, open until the block ends; `CollectionNotFound` where there is none of that name."""
    with open_bank(invocation, use, tells_loads=tells_loads) as bank:
        collection = bank.collection(name)
        if collection.stats() is None:
            raise _no_collection(bank, name)
        yield collection


def _no_collection(bank: OpenBank, name: str) -> CollectionNotFound:
    known = [info.name for info in bank.collections()]
    guess = nearest(name, known)
    hint = f"; did you mean {guess!r}?" if guess else (f": there are {', '.join(known[:10])}" if known else "")
    empty = "" if known else ": the bank is empty, `embank index` or `embank add` puts documents into it"
    return CollectionNotFound(
        f"there is no collection {name!r} in {bank.path}{hint}{empty}", name=name, known=known[:100]
    )

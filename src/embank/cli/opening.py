"""How a command gets at a bank: the one place that decides between opening it and going through its running server.

Most commands are written against `OpenBank` and `OpenCollection`, which both can do (`open_bank`, `open_collection`).
The others open the bank themselves (`open_own_bank`, `open_own_collection`): beside a server where they only read;
where they write, `BankServed` says that it must be stopped first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from embank.cli.running import served_bank
from embank.errors import CollectionNotFound
from embank.registry import nearest

if TYPE_CHECKING:
    from embank.bank import Bank, LocalCollection
    from embank.cli.options import Invocation
    from embank.remote.surface import OpenBank, OpenCollection

Use = Literal["read", "change", "create"]
"""`read` works beside a process that writes; `change` writes to a bank that must exist; `create` may make one."""


@contextmanager
def open_bank(invocation: Invocation, use: Use, *, tells_loads: bool = False) -> Iterator[OpenBank]:
    """The bank of this invocation, open until the block ends: that of a running server, or opened here.

    `tells_loads`: standard error says that a model is being loaded where that takes long, for commands that show no
    progress of their own.

    Raises `BankNotFound` unless `use` is "create", and `BankLocked`, unless it is "read", where another process writes.
    """
    served = served_bank(invocation, invocation.config(), writes=use != "read")
    if served is None:
        with open_own_bank(invocation, use, tells_loads=tells_loads) as opened:
            yield opened
    else:
        with served:
            yield served


@contextmanager
def open_own_bank(invocation: Invocation, use: Use, *, tells_loads: bool = False) -> Iterator[Bank]:
    """The same, opened here in any case. Raises `BankServed` where a server holds what is to be written."""
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
def open_collection(
    invocation: Invocation, name: str, use: Use, *, tells_loads: bool = False
) -> Iterator[OpenCollection]:
    """A collection that exists, open until the block ends; `CollectionNotFound` where there is none of that name."""
    with open_bank(invocation, use, tells_loads=tells_loads) as bank:
        collection = bank.collection(name)
        if collection.stats() is None:
            raise _no_collection(invocation, bank, name)
        yield collection


@contextmanager
def open_own_collection(
    invocation: Invocation, name: str, use: Use, *, tells_loads: bool = False
) -> Iterator[LocalCollection]:
    """The same, of a bank that is opened here in any case."""
    with open_own_bank(invocation, use, tells_loads=tells_loads) as bank:
        collection = bank.collection(name)
        if collection.stats() is None:
            raise _no_collection(invocation, bank, name)
        yield collection


def _no_collection(invocation: Invocation, bank: OpenBank, name: str) -> CollectionNotFound:
    known = [info.name for info in bank.collections()]
    guess = nearest(name, known)
    hint = f"; did you mean {guess!r}?" if guess else (f": there are {', '.join(known[:10])}" if known else "")
    empty = "" if known else ": the bank is empty, `embank index` or `embank add` puts documents into it"
    return CollectionNotFound(
        f"there is no collection {name!r} in {invocation.bank}{hint}{empty}", name=name, known=known[:100]
    )

"""Embank: embeds text, stores it and searches it inside a memory budget that holds.

with embank.open("my.bank", memory="512MB") as bank:
    notes = bank.collection("notes")
    notes.add([{"id": "a1", "text": "Rivers carry silt."}])
    for hit in notes.search("what do rivers carry?", k=5):
        print(hit.score, hit.id, hit.text)

Names are imported when they are first used, so that `import embank` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from embank.awaitable import aopen
    from embank.bank import Bank
    from embank.bank import open_bank as open  # noqa: A004 -- embank.open reads as it does
    from embank.cache.embeddings import EmbeddingCache
    from embank.client.client import AsyncClient, Client
    from embank.collection import Collection
    from embank.embed import models
    from embank.embed.model import Model
    from embank.errors import EmbankError
    from embank.memory.creep.watch import track
    from embank.memory.governor import Governor
    from embank.records import Document, Hit
    from embank.system.log import get_logger

_NAMES = {
    "AsyncClient": "embank.client.client:AsyncClient",
    "Bank": "embank.bank:Bank",
    "Client": "embank.client.client:Client",
    "Collection": "embank.collection:Collection",
    "Document": "embank.records:Document",
    "EmbankError": "embank.errors:EmbankError",
    "EmbeddingCache": "embank.cache.embeddings:EmbeddingCache",
    "Governor": "embank.memory.governor:Governor",
    "Hit": "embank.records:Hit",
    "Model": "embank.embed.model:Model",
    "aopen": "embank.awaitable:aopen",
    "get_logger": "embank.system.log:get_logger",
    "models": "embank.embed.models",
    "open": "embank.bank:open_bank",
    "track": "embank.memory.creep.watch:track",
}

__all__ = [
    "AsyncClient",
    "Bank",
    "Client",
    "Collection",
    "Document",
    "EmbankError",
    "EmbeddingCache",
    "Governor",
    "Hit",
    "Model",
    "aopen",
    "get_logger",
    "models",
    "open",
    "track",
]


def __getattr__(name: str) -> object:
    path = _NAMES.get(name)
    if path is None:
        raise AttributeError(f"module 'embank' has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = path.partition(":")
    found: object = import_module(module)
    if attribute:
        found = getattr(found, attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])

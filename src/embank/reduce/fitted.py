"""The reductions that are in use: read from the bank when first needed, and put around models and vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from embank.embed.reduce import Float32, Pca, split_fingerprint
from embank.embed.reduced import reduced
from embank.errors import BankDamaged, InvalidInput
from embank.store.protocol import Space

if TYPE_CHECKING:
    from embank.embed.model import Model
    from embank.store.protocol import CollectionInfo
    from embank.store.reductions import Reduction, Reductions

# What reading a megabyte again takes: SQLite's pages and a checksum.
_REBUILD_S_A_MB = 0.005
_MOST_HELD = 8

Narrow = Callable[[Float32], Float32]
"""float32 (n, width) to float32 (n, dimension), L2-normalised."""


class Fitted:
    """Those of one bank. Thread-safe; a `Consumer` of the governor, since every matrix can be read again."""

    name = "fitted reductions"

    def __init__(self, reductions: Reductions) -> None:
        self._reductions = reductions
        self._guard = threading.Lock()
        self._held: dict[tuple[str, str], Pca] = {}

    def around(self, model: Model, *, collection: str, fingerprint: str) -> Model:
        """`model` with the reductions that the fingerprint of a collection's vectors names.

        A model that makes other vectors than those that were reduced is handed back as it is: it has its own
        fingerprint, and is refused by that.
        """
        base, versions = split_fingerprint(fingerprint)
        if versions and model.fingerprint == base:
            for version in versions:
                model = reduced(model, self.pca(collection, version))
        return model

    def narrowing(self, info: CollectionInfo | None, space: Space) -> tuple[Space, Narrow]:
        """In which space a collection keeps vectors of `space`, and what makes them so.

        They are taken as they are, unless it holds vectors that were reduced from ones of that very space.
        """
        base, versions = split_fingerprint((info and info.fingerprint) or "")
        if info is None or not versions or base != space.fingerprint:
            return space, lambda vectors: vectors
        narrow = Space(info.fingerprint or "", info.dimension or 0, info.model)
        return narrow, lambda vectors: self._applied(info.name, versions, vectors)

    def query(self, vector: Float32, info: CollectionInfo) -> Float32:
        """A query's vector, shape (any,), as the collection takes it: reduced where it is one before the reduction."""
        _, versions = split_fingerprint(info.fingerprint or "")
        if not versions or len(vector) == info.dimension:
            return vector
        if len(vector) != self.pca(info.name, versions[0]).width:
            return vector  # of a width that the searcher refuses
        row: Float32 = self._applied(info.name, versions, vector[np.newaxis])[0]
        return row

    def pca(self, collection: str, version: str) -> Pca:
        """The fitted matrix of that version; `BankDamaged` where it is gone or altered."""
        with self._guard:
            held = self._held.get((collection, version))
        if held is None:
            held = restored(self._reductions.find(collection, version), collection=collection, version=version)
            with self._guard:
                while len(self._held) >= _MOST_HELD:
                    del self._held[next(iter(self._held))]
                self._held[collection, version] = held
        return held

    def forget(self, collection: str) -> None:
        """Let go what is held for a collection that is no more."""
        with self._guard:
            for key in [key for key in self._held if key[0] == collection]:
                del self._held[key]

    def used_bytes(self) -> int:
        with self._guard:
            return sum(pca.components.nbytes for pca in self._held.values())

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 -- all of them are small beside anything else
        used = self.used_bytes()
        with self._guard:
            self._held.clear()
        return used

    def rebuild_cost(self) -> float:
        return _REBUILD_S_A_MB

    def _applied(self, collection: str, versions: tuple[str, ...], vectors: Float32) -> Float32:
        for version in versions:
            vectors = self.pca(collection, version).apply(vectors)
        return vectors


def restored(kept: Reduction | None, *, collection: str, version: str) -> Pca:
    """The PCA that was kept. Raises `BankDamaged` where there is none, or its content is not what its version says."""
    problem = "is not there"
    if kept is not None:
        try:
            pca = Pca.from_bytes(
                kept.matrix,
                source=kept.source,
                width=kept.width,
                dimension=kept.dimension,
                rows=kept.rows,
                explained=kept.explained,
            )
        except InvalidInput as error:
            problem = f"can't be read: {error}"
        else:
            if pca.version == version:
                return pca
            problem = f"has the content of {pca.version}"
    raise BankDamaged(
        f"the fitted reduction {version} of collection {collection!r} {problem}: restore the bank from a backup, or "
        f"make the vectors anew (`embank reembed`)",
        collection=collection,
        version=version,
    )

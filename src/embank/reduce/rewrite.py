"""Writing a collection's vectors anew in another form: in its own place, or into another collection beside it.

Nothing is embedded: every vector comes from the one that is stored, with the passages and digests that belong to it,
so that what was indexed stays indexed. Both work in windows, each a durable commit, and go on where they were stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from embank.embed.reduce import Float32
from embank.kit import WINDOW_CHARACTERS, WINDOW_DOCUMENTS, windows
from embank.memory.governor import Governor
from embank.memory.reserve import Reservation
from embank.records import Document
from embank.reduce.fitted import Narrow
from embank.reduce.sample import OnProgress
from embank.store.collection import StoredCollection
from embank.store.contents import Content
from embank.store.documents import encode_metadata
from embank.store.protocol import Batch, Known, Space, Upsert
from embank.store.shadow import Draft, Shadow
from embank.store.snapshot import Snapshot

_WAIT_S = 60.0


class Rewriter:
    """Rewrites `source` in `space`, each vector made by `narrow`. For one thread."""

    def __init__(
        self,
        source: StoredCollection,
        space: Space,
        narrow: Narrow,
        *,
        governor: Governor,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._source = source
        self._space = space
        self._narrow = narrow
        self._governor = governor
        self._on_progress = on_progress
        self._done = 0

    # --- in its own place ---

    def in_place(self, *, dtype: str) -> None:
        """Fill a new generation and put it in use. Searches and writes go on meanwhile; on record."""
        with self._source.shadow(self._space, dtype=dtype) as shadow:
            total = max(shadow.remaining(), 1)
            while self._done < total and self._fill(shadow, total):
                pass
            shadow.catch_up(lag_rows=1)
            with shadow.writers_waiting():
                while self._fill(shadow, total):
                    pass
                shadow.swap()
        self._source.tidy()
        self._source.catch_up(lag_rows=1)

    def _fill(self, shadow: Shadow, total: int) -> int:
        window = shadow.window(documents=WINDOW_DOCUMENTS, characters=WINDOW_CHARACTERS)
        if not window:
            return 0
        with self._source.snapshot(lexical=False) as snapshot:
            held = snapshot.contents_of(each.id for each in window)
            # One that is gone, or was changed after the window was read, is left out when the window is written.
            found = [held.get(each.id) for each in window]
            with self._reserved(snapshot, found):
                vectors = self._vectors(snapshot, found)
                drafts = [
                    Draft(each, each.digest if content is None else content.digest, content.chunks if content else ())
                    for each, content in zip(window, found, strict=True)
                ]
                shadow.commit(drafts, vectors)
        shadow.catch_up()
        self._tell(len(window), total)
        return len(window)

    # --- beside it ---

    def into(self, target: StoredCollection) -> int:
        """Copy every document into `target`, but for those that it has already; return how many were copied."""
        info = self._source.info()
        total = max(info.documents if info is not None else 0, 1)
        copied = 0
        after: str | None = None
        while True:
            with self._source.snapshot(lexical=False) as snapshot:
                window = next(windows(snapshot.contents_behind(after)), None)
                if window is None:
                    break
                known = target.known(content.document.id for content in window)
                missing = [content for content in window if _differs(content, known.get(content.document.id))]
                # A batch is of one root.
                for root, members in groupby(sorted(missing, key=_root), key=lambda content: content.root):
                    copied += self._copy(snapshot, target, root, list(members))
            after = window[-1].document.id
            target.catch_up()
            self._tell(len(window), total)
        target.catch_up(lag_rows=1)
        return copied

    def _copy(self, snapshot: Snapshot, target: StoredCollection, root: str | None, members: list[Content]) -> int:
        with self._reserved(snapshot, members):
            vectors = self._vectors(snapshot, members)
            upserts = [Upsert(content.document, content.digest, content.chunks) for content in members]
            target.commit(Batch(root, upserts, vectors), self._space)
        return len(members)

    # --- both ---

    def _vectors(self, snapshot: Snapshot, contents: Sequence[Content | None]) -> Float32:
        slots = [slot for content in contents if content is not None for slot in content.slots]
        if not slots:
            return np.empty((0, self._space.dimension), np.float32)
        return self._narrow(snapshot.vectors(np.array(slots, np.int64)))

    def _reserved(self, snapshot: Snapshot, contents: Sequence[Content | None]) -> Reservation:
        """For the vectors as they are stored, as they become, and as they are written."""
        rows = sum(len(content.slots) for content in contents if content is not None)
        each = (snapshot.info.dimension or 0) * 4 + self._space.dimension * 8
        return self._governor.reserve("a window of vectors", rows * each, wait_s=_WAIT_S, priority="bulk")

    def _tell(self, documents: int, total: int) -> None:
        self._governor.check()
        self._done += documents
        if self._on_progress is not None:
            self._on_progress(min(self._done / total, 1.0), "writing the vectors anew")


def _root(content: Content) -> str:
    return content.root or ""


def _differs(content: Content, known: Known | None) -> bool:
    document: Document = content.document
    return known is None or (known.digest, known.metadata, known.root, known.origin) != (
        content.digest,
        encode_metadata(document),
        content.root,
        document.origin,
    )

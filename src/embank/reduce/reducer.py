"""Reducing one collection: fit a PCA on its vectors, apply what was fitted, or compare the ways beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, get_args

from embank.embed.reduce import ENOUGH, Pca, check_dimension, check_enough
from embank.errors import CollectionNotFound, FingerprintMismatch, InvalidInput
from embank.events.kinds import CollectionReduced, PcaFitted
from embank.reduce.compare import Inquiry, compare, fit_on, pca_way
from embank.reduce.evaluate import Evaluation, Way
from embank.reduce.fitted import restored
from embank.reduce.reports import ApplyReport, FitReport
from embank.reduce.rewrite import Rewriter
from embank.reduce.sample import BYTES_A_SLOT, SAMPLE, OnProgress, draw, told
from embank.store.codec import Codec
from embank.store.info import Dtype
from embank.store.protocol import CollectionInfo, Space
from embank.store.reductions import Reduction, Reductions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embank.embed.model import Model
    from embank.events.stream import Stream
    from embank.memory.governor import Governor
    from embank.store.collection import StoredCollection
    from embank.store.index.protocol import Slots
    from embank.store.snapshot import Snapshot
    from embank.system.clock import Clock

_SHARES = ((2, 3), (1, 2), (1, 3), (1, 4))
"""Widths that are compared unless one says which, as shares of the full one."""

_WAIT_S = 60.0


class Reducer:
    """Made by `engine`. For one thread.

    `model_for` gives the model of the collection's vectors, `trained_for` the lengths that they may be cut to;
    `collection_of` opens another collection of the bank.
    """

    def __init__(
        self,
        collection: StoredCollection,
        reductions: Reductions,
        *,
        model_for: Callable[[CollectionInfo], Model | None],
        trained_for: Callable[[CollectionInfo], Sequence[int]],
        collection_of: Callable[[str], StoredCollection],
        governor: Governor,
        stream: Stream,
        clock: Clock,
    ) -> None:
        self._collection = collection
        self._reductions = reductions
        self._model_for = model_for
        self._trained_for = trained_for
        self._collection_of = collection_of
        self._governor = governor
        self._stream = stream
        self._clock = clock

    def fit(
        self,
        dimension: int,
        *,
        sample: int = SAMPLE,
        seed: int = 0,
        k: int = 10,
        on_progress: OnProgress | None = None,
    ) -> FitReport:
        """Fit a PCA to `dimension` on a sample of the collection's vectors, measure it, and keep it to be applied.

        It takes the place of one that was fitted before and not applied. Nothing else changes. Raises `InvalidInput`
        for a dimension that is not narrower, and for fewer vectors than dimensions; `BudgetExceeded`.
        """
        info, width = self._with_vectors()
        check_dimension(dimension, width)
        with self._sample(sample, seed) as (snapshot, slots):
            check_enough(len(slots), dimension)
            judged = None
            if len(slots) // 2 >= max(dimension, 2):
                judged = self._compared(
                    snapshot,
                    slots,
                    Inquiry((dimension,), k=k, seed=seed),
                    lambda pcas: [pca_way(pca, info.dtype) for pca in pcas],
                    on_progress,
                )
            told(on_progress, 0.0, "fitting on the whole sample")
            (pca,) = fit_on(snapshot, slots, [dimension], budget=self._governor)
            passages = len(snapshot.live_slots())
        self._reductions.keep(info.name, _kept(pca, self._clock.now()))
        self._stream.publish(PcaFitted(info.name, pca.version, pca.width, pca.dimension, pca.rows, pca.explained))
        before, after = _bytes(info.dtype, width, passages), _bytes(info.dtype, dimension, passages)
        doubtful = f"fitted on {pca.rows:,} vectors, fewer than {ENOUGH} for each of {dimension} dimensions"
        return FitReport(
            collection=info.name,
            source=pca.source,
            version=pca.version,
            width=width,
            dimension=dimension,
            dtype=info.dtype,
            rows=pca.rows,
            passages=passages,
            explained=pca.explained,
            bytes_before=before,
            bytes_after=after,
            k=k if judged is None else judged.k,
            queries=0 if judged is None else judged.queries,
            asked="" if judged is None else judged.asked,
            judged=None if judged is None else judged.lines[0],
            warning=f"{doubtful}: new texts may be served less well" if pca.rows < ENOUGH * dimension else "",
        )

    def apply(
        self, *, into: str | None = None, dtype: str | None = None, on_progress: OnProgress | None = None
    ) -> ApplyReport:
        """Rewrite the vectors with the PCA that was fitted last, stored as `dtype`; nothing is embedded.

        In the collection's own place, by a new generation that replaces the old; or, with `into`, in another
        collection beside it, which is made or brought up to date. Stopped midway, the same call goes on. Without a
        PCA that is still to be applied, `dtype` alone changes. Raises `InvalidInput` when there is nothing to do.
        """
        started = self._clock.monotonic()
        info, width = self._with_vectors()
        if dtype is not None and dtype not in get_args(Dtype):
            raise InvalidInput(f"vectors can be stored as {' or '.join(get_args(Dtype))}, not {dtype!r}", dtype=dtype)
        if into == info.name:
            raise InvalidInput(f"{into!r} can't be copied into itself: leave `into` out to change it in its place")
        pca = self._pending(info)
        if pca is None and dtype in (None, info.dtype):
            raise self._nothing_fitted(info, width)
        space = Space(info.fingerprint or "", width, info.model)
        if pca is not None:
            space = Space(pca.fingerprint, pca.dimension, info.model)
        rewriter = Rewriter(
            self._collection,
            space,
            (lambda vectors: vectors) if pca is None else pca.apply,
            governor=self._governor,
            on_progress=on_progress,
        )
        with nullcontext() if pca is None else self._governor.reserve("a fitted PCA", pca.components.nbytes):
            if into is None:
                rewriter.in_place(dtype=dtype or info.dtype)
                target = self._collection
            else:
                target = self._prepared(info, into, space, dtype or info.dtype)
                rewriter.into(target)
        made = target.info()
        if made is None:
            raise CollectionNotFound(f"the collection {target.name!r} is gone", name=target.name)
        report = ApplyReport(
            collection=info.name,
            into=made.name,
            fingerprint=space.fingerprint,
            replaced=info.fingerprint or "",
            dimension=space.dimension,
            dtype=made.dtype,
            documents=made.documents,
            passages=made.chunks,
            bytes_before=_bytes(info.dtype, width, info.slots),
            bytes_after=_bytes(made.dtype, space.dimension, made.slots),
            seconds=self._clock.monotonic() - started,
        )
        self._stream.publish(
            CollectionReduced(
                info.name, made.name, space.fingerprint, made.documents, report.bytes_before, report.bytes_after
            )
        )
        return report

    def evaluate(
        self,
        *,
        queries: Iterable[str] | None = None,
        dimensions: Sequence[int] = (),
        k: int = 10,
        sample: int = SAMPLE,
        seed: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Evaluation:
        """Compare fp16, int8, cutting (where the model was trained for it) and PCAs on a sample of the collection.

        One half of the sample fits the PCAs, the other is searched. `queries` are the user's own questions; without
        them some are drawn from passages. Nothing is changed.
        """
        info, width = self._with_vectors()
        widths = list(dict.fromkeys(dimensions or [width * top // bottom for top, bottom in _SHARES]))
        widths = widths if dimensions else [each for each in widths if each > 0]
        for each in widths:
            check_dimension(each, width)

        def ways(pcas: Sequence[Pca]) -> list[Way]:
            made = [Way("full", dtype, width) for dtype in ("float32", *get_args(Dtype))]
            for trained in self._trained_for(info):
                made += [Way("cut", dtype, trained) for dtype in get_args(Dtype)]
            return made + [pca_way(pca, dtype) for pca in pcas for dtype in get_args(Dtype)]

        with self._sample(sample, seed) as (snapshot, slots):
            given = None if queries is None else tuple(queries)
            return self._compared(snapshot, slots, Inquiry(tuple(widths), k, seed, given), ways, on_progress)

    # --- inside ---

    def _compared(
        self,
        snapshot: Snapshot,
        slots: Slots,
        inquiry: Inquiry,
        ways_of: Callable[[Sequence[Pca]], list[Way]],
        on_progress: OnProgress | None,
    ) -> Evaluation:
        model = self._model_for(snapshot.info)
        return compare(snapshot, slots, inquiry, ways_of, model=model, budget=self._governor, on_progress=on_progress)

    @contextmanager
    def _sample(self, count: int, seed: int) -> Iterator[tuple[Snapshot, Slots]]:
        with self._collection.snapshot(lexical=False) as snapshot:
            with self._governor.reserve("drawing a sample", snapshot.info.slots * BYTES_A_SLOT, wait_s=_WAIT_S):
                slots = draw(snapshot.live_slots(), count, seed=seed).copy()
            yield snapshot, slots

    def _with_vectors(self) -> tuple[CollectionInfo, int]:
        info = self._collection.info()
        if info is None:
            raise CollectionNotFound(f"there is no collection {self._collection.name!r}", name=self._collection.name)
        if info.dimension is None:
            raise InvalidInput(f"collection {info.name!r} has no vectors yet: nothing can be fitted", vectors_there=0)
        if info.metric != "cosine":
            raise InvalidInput(
                f"collection {info.name!r} compares vectors by {info.metric}: reducing them keeps directions, not "
                f"lengths, and so serves cosine alone",
                metric=info.metric,
            )
        return info, info.dimension

    def _pending(self, info: CollectionInfo) -> Pca | None:
        """The PCA that was fitted on the collection's present vectors and not applied yet."""
        kept = self._reductions.pending(info.name)
        if kept is None:
            return None
        return restored(kept, collection=info.name, version=kept.version)

    def _nothing_fitted(self, info: CollectionInfo, width: int) -> InvalidInput:
        half = max(width // 2, 1)
        return InvalidInput(
            f"collection {info.name!r} has no fitted PCA for its {width}-dimensional vectors ({info.fingerprint}): "
            f"`embank reduce fit -c {info.name} --dimensions {half}` fits one; it needs as many vectors as dimensions, "
            f"better {ENOUGH} times as many, and there are {info.chunks:,}",
            vectors_needed=half,
            vectors_there=info.chunks,
        )

    def _prepared(self, info: CollectionInfo, into: str, space: Space, dtype: str) -> StoredCollection:
        """The collection to copy into, with every matrix that its vectors will refer to."""
        target = self._collection_of(into)
        there = target.info()
        if there is not None and there.fingerprint not in (None, space.fingerprint):
            raise FingerprintMismatch(
                f"collection {into!r} holds vectors of {there.fingerprint}, not of {space.fingerprint}: name another",
                stored=there.fingerprint,
                offered=space.fingerprint,
            )
        if there is not None and there.fingerprint is not None and there.dtype != dtype:
            raise InvalidInput(f"collection {into!r} keeps its vectors as {there.dtype}, not as {dtype}: name another")
        self._reductions.copy(info.name, to=into, dtype=dtype)
        return target


def _kept(pca: Pca, now: float) -> Reduction:
    return Reduction(pca.version, pca.source, pca.width, pca.dimension, pca.rows, pca.explained, now, pca.to_bytes())


def _bytes(dtype: str, dimension: int, rows: int) -> int:
    return Codec(dtype, dimension).record.itemsize * rows

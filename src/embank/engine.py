"""Assembles the rooms from settings: wiring only. Each thing is made when it is first needed, and once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embank.caches import Caches
from embank.config import Config, load
from embank.embed.model import Model
from embank.errors import BankDamaged
from embank.events.kinds import ReembedAbandoned
from embank.events.stream import Stream
from embank.memory.creep.watch import Creep
from embank.memory.governor import Governor
from embank.memory.meter import SystemMeter, machine_limit
from embank.memory.monitor import Monitor
from embank.memory.pressure import watch
from embank.memory.recovery import Recovery
from embank.modelbook import ModelBook, Target
from embank.pipeline import OnCommit, OnProgress, Pipeline
from embank.reduce.fitted import Fitted
from embank.reduce.reducer import Reducer
from embank.reembedding import OnReembedProgress, Reembedder, ReembedReport
from embank.registry import SECTIONS
from embank.search.rerank import Reranker, Rerankers
from embank.search.searcher import Searcher
from embank.search.weights import Fusion
from embank.store.collection import StoredCollection
from embank.store.dropping import OnDropProgress
from embank.store.hot.reports import HotReport
from embank.store.local import LocalStore
from embank.store.protocol import CollectionInfo, Reembedding
from embank.store.reductions import Reductions
from embank.store.reports import DropReport
from embank.store.tunings import Tunings
from embank.system.clock import Clock, SystemClock
from embank.system.files import Files
from embank.transfer.transfers import Transfers

if TYPE_CHECKING:
    from embank.embed.loader import Loader
    from embank.memory.meter import Meter


def load_config(
    flags: Mapping[str, object], *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """The settings of every room, from defaults, file, environment and flags."""
    return load(SECTIONS, file=file, environ=os.environ if environ is None else environ, flags=flags)


class Engine:
    """The rooms of one open bank."""

    def __init__(
        self,
        root: Path,
        *,
        config: Config,
        read_only: bool,
        own_process: bool,
        model: Model | None = None,
        reranker: Reranker | None = None,
        clock: Clock | None = None,
        meter: Meter | None = None,
        files: Files | None = None,
    ) -> None:
        """Open the bank at `root`. In somebody else's process the memory held now does not count against the budget."""
        self.config = config
        self.clock = clock or SystemClock()
        self.stream = Stream()
        self.files = files or Files()
        meter = meter or SystemMeter()
        memory = config.section("memory")
        self.governor = Governor(
            memory.budget.resolve(machine_limit()),
            meter=meter,
            clock=self.clock,
            stream=self.stream,
            baseline_bytes=0 if own_process else meter.read().tree_bytes,
            settings=memory,
        )
        self.recovery = Recovery(
            config.section("recovery"),
            managed_bytes=self.governor.managed_here_bytes,
            publish=self.stream.publish,
            clock=self.clock,
            meter=meter,
        )
        self.creep = Creep(
            config.section("creep"),
            managed_bytes=self.governor.managed_here_bytes,
            consumers=self.governor.consumers_here,
            recover=self._recover,
            publish=self.stream.publish,
            limit_bytes=lambda: self.governor.budget_bytes,
            clock=self.clock,
        )
        self.monitor = Monitor(self.governor, settings=memory, publish=self.stream.publish, clock=self.clock)
        self.store = LocalStore(
            root,
            read_only=read_only,
            settings=config.section("store"),
            index=config.section("index"),
            hot=config.section("hot"),
            ask=lambda info, texts: self.models.questions(info, texts),  # noqa: PLW0108 -- the book is made later
            stream=self.stream,
            governor=self.governor,
            files=self.files,
            clock=self.clock,
        )
        self.caches = Caches(
            config.section("cache"),
            root,
            read_only=read_only,
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
        )
        self._reductions = Reductions(self.store.database, clock=self.clock)
        self.tunings = Tunings(self.store.database, clock=self.clock)
        self.fitted = Fitted(self._reductions)
        self.governor.register(self.fitted)
        self._loader: Loader | None = None
        self._guard = threading.Lock()
        self._settled = False
        self.models = ModelBook(
            config, self.loader, caches=self.caches, fitted=self.fitted, own=model, on_ready=self._settle
        )
        self.rerankers = Rerankers(
            config.section("search"),
            own=reranker,
            embed=config.section("embed"),
            governor=self.governor,
            clock=self.clock,
        )
        if memory.monitor:
            self.monitor.start()
        # Whose word this is: the service manager's, to a process that it started for Embank.
        heeds = own_process and memory.pressure_watch
        self._pressure = watch(os.environ, self.governor.report_pressure) if heeds else None

    def loader(self) -> Loader:
        """The one loader; importing it brings numpy and the tokenizers along."""
        with self._guard:
            if self._loader is None:
                from embank.embed.loader import Loader

                self._loader = Loader(
                    self.config.section("embed"),
                    governor=self.governor,
                    stream=self.stream,
                    recovery=self.recovery,
                    remote=self.config.section("remote"),
                    worker=self.config.section("worker"),
                )
            return self._loader

    def pipeline(
        self,
        collection: StoredCollection,
        *,
        on_progress: OnProgress | None = None,
        on_commit: OnCommit | None = None,
    ) -> Pipeline:
        """The write path into a collection, with the model that its vectors are of."""
        return Pipeline(
            collection,
            lambda: self.models.kit_of(collection),
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
            operation=self.creep.track("ingest"),
            on_progress=on_progress,
            on_commit=on_commit,
        )

    def reembed(
        self,
        collection: StoredCollection,
        target: Target,
        *,
        force: bool = False,
        on_progress: OnReembedProgress | None = None,
    ) -> ReembedReport:
        """Give every document of a collection vectors of the target's model; or go on with what was interrupted."""
        collection.check_reembedding()
        info, under_way = collection.info(), collection.reembedding()
        model, recipe = self.models.target(info, under_way, target, force=force)
        dtype = self.config.section("store").dtype if self.models.is_flag("store.dtype") else None
        same = info is not None and info.fingerprint == model.fingerprint and dtype in (None, info.dtype)
        if same and under_way is None and not force:
            return ReembedReport(
                collection.name, model.fingerprint, model.fingerprint, info.documents if info else 0, "nothing to do"
            )
        # Known from the moment of the swap on, whatever the settings name.
        self.models.knows(model)
        return Reembedder(
            collection,
            self.models.kit(model, recipe),
            dtype=dtype,
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
            operation=self.creep.track("reembed"),
            on_progress=on_progress,
        ).run()

    def abandon_reembedding(self, collection: StoredCollection) -> Reembedding | None:
        """Throw away a re-embedding that was begun; what it was, or `None`."""
        abandoned = collection.abandon_reembedding()
        if abandoned is not None:
            self.stream.publish(
                ReembedAbandoned(
                    collection=collection.name,
                    fingerprint=abandoned.space.fingerprint,
                    remaining=abandoned.remaining,
                )
            )
        return abandoned

    def searcher(self, collection: StoredCollection) -> Searcher:
        """The read path of a collection."""
        return Searcher(
            collection,
            self.models.of,
            narrow=self.fitted.query,
            results=self.caches.results,
            reranker=self.rerankers.get,
            operation=self.creep.track("search"),
            settings=self.config.section("search"),
            stream=self.stream,
            clock=self.clock,
            tuned=self._tuned,
        )

    def _tuned(self, info: CollectionInfo) -> Fusion | None:
        """The weights that were fitted for a collection's vectors of now."""
        tuning = self.tunings.of(info)
        try:
            return None if tuning is None else Fusion.from_dict(tuning.fusion)
        except ValueError as error:  # of a later version
            raise BankDamaged(
                f"the weights kept for searches of {info.name!r} can't be read ({error}): `embank search tune --reset` "
                f"takes them away",
                collection=info.name,
            ) from error

    def reducer(self, collection: StoredCollection) -> Reducer:
        """What makes a collection's vectors smaller."""
        return Reducer(
            collection,
            self._reductions,
            model_for=self.models.of,
            trained_for=self.models.trained_for,
            collection_of=self.store.collection,
            governor=self.governor,
            stream=self.stream,
            clock=self.clock,
        )

    def drop(self, name: str, *, dry_run: bool = False, on_progress: OnDropProgress | None = None) -> DropReport:
        """Take a collection out of the bank, and everything of it out of memory and from the disk."""
        with self.creep.track("drop"):
            report = self.store.drop(name, dry_run=dry_run, on_progress=on_progress)
            if not dry_run:
                self.fitted.forget(name)
                self.tunings.forget(name)
                if self.caches.results is not None:  # answers hold passages; they are kept for all collections together
                    self.caches.results.clear()
                self.recovery.recover_now()
            return report

    def rebuild_hot(self, *, dry_run: bool = False) -> list[HotReport]:
        """Make the hot tier of every collection anew, one after another."""
        with self.creep.track("hot rebuild"):
            return [self.store.collection(info.name).hot.rebuild(dry_run=dry_run) for info in self.store.collections()]

    def jobs(self) -> dict[str, Callable[[], object]]:
        """What can be done on a schedule, by name; each may raise what it raises when it is called by hand."""
        return {"hot-rebuild": self.rebuild_hot}

    def transfers(self) -> Transfers:
        """What exports collections to files and imports them."""
        return Transfers(self.store.root, self.governor, self.stream, self.clock, self.files)

    def release(self) -> int:
        """Give back what can be earned again: models, the database's pages, writers' heaps, the allocator's hoard.

        Returns the bytes freed, as measured. Asked for by a person, so a model goes even if it was used a moment ago,
        but never from under a call.
        """
        before = self.governor.snapshot()
        self.store.database.release()
        if self._loader is not None:
            self._loader.unload_all()
            self.recovery.recover_now()
        # More than there can be, so that everybody is asked, even where a shrunken host makes what is held look like 0.
        self.governor.relieve(before.real_bytes + before.managed_bytes + 1)
        return max(before.real_bytes - self.governor.snapshot().real_bytes, 0)

    def close(self) -> None:
        """Close the store, unload the model, end the event stream."""
        try:
            self.store.close()
        finally:
            self.caches.close()
            self.rerankers.close()
            if self._loader is not None:
                self._loader.close()
            if self._pressure is not None:
                self._pressure.close()
            self.monitor.close()
            self.creep.close()
            self.recovery.close()
            self.stream.close()

    def _settle(self) -> None:
        """With the first model in memory, what is held beside the consumers is the floor."""
        if not self._settled:
            self._settled = True
            self.governor.settle()

    def _recover(self) -> None:
        """All that can be given back without a person's word: what consumers hold, and the allocator's hoard."""
        self.governor.relieve(self.governor.managed_bytes() + 1, "a jump of memory")
        self.recovery.recover_now()

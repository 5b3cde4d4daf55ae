"""Drift: whether an index still finds what it should among the rows that came after it was trained.

Where an index was trained, and each time it is extended, it is asked for what lies near some of the newest rows, and
held against the exact scan; so is the error with which its codes reproduce them. What it did when it was fresh is kept,
and is the measure. It has drifted where the lower bound of its recall misses the target *and* the upper bound misses
what it found when fresh: then it is surely worse than it was. It must have grown by an eighth since it was trained and,
where it missed the target even when it was fresh, be twice as large: so none is made anew time and again in vain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embank.errors import MemoryBudgetError
from embank.events.index import IndexProbed
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.priority import bulk_work
from embank.store.index.base import Base, Probe, Watched
from embank.store.index.building import Interrupted
from embank.store.index.nearest import nearest, working_bytes
from embank.store.index.planner import lower_bound, mixtures
from embank.store.index.protocol import Float32, Mask, Slots
from embank.store.index.settings import Settings
from embank.store.vectors import Rows
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.log import get_logger

_log = get_logger(__name__)

_K = 10
_LEAST_RECENT = 50
_LEAST_GROWTH = 9 / 8
_LEAST_GROWTH_IN_VAIN = 2.0
_ALIKE = 1e-5


def why_drifted(fresh: Probe, now: Probe, *, target: float) -> str | None:
    """Why an index is to be made anew; `None` where it is as it should be, or can't be better."""
    least_growth = _LEAST_GROWTH if fresh.recall_low >= target else _LEAST_GROWTH_IN_VAIN
    if now.recall_low >= target or now.recall_high >= fresh.recall or now.rows < least_growth * now.of_rows:
        return None
    error = ""
    if fresh.error and now.error is not None:
        error = f"; its codes are off by {now.error / fresh.error:.2f} times as much"
    return (
        f"of what is near {now.recent_rows:,} new rows it finds {now.recall:.3f} ({now.recall_low:.3f} to "
        f"{now.recall_high:.3f}), where it found {fresh.recall:.3f} when it was trained, and {target:.3f} is "
        f"wanted{error}"
    )


class Drift:
    """Watches the index of one collection. For one thread at a time, but for `kept`."""

    def __init__(
        self,
        path: Path,
        *,
        collection: str,
        settings: Settings,
        files: Files,
        clock: Clock,
        stream: Stream,
        governor: Governor | None,
    ) -> None:
        self._path = path
        self._collection = collection
        self._settings = settings
        self._files = files
        self._clock = clock
        self._stream = stream
        self._governor = governor

    def kept(self) -> Watched | None:
        """What was measured; `None` where nothing was, or it can't be read."""
        try:
            values = json.loads(self._path.read_bytes())
            return Watched(Probe(**values["fresh"]), Probe(**values["last"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("the probes of an index in %s can't be read (%s): they begin anew", self._path, error)
            return None

    def watch(
        self, base: Base, rows: Rows, dead: Mask | None, *, first_slot: int, going: Callable[[], bool]
    ) -> str | None:
        """Ask `base` about the rows from `first_slot` on, keep what came of it, and say why it is to be made anew.

        `first_slot` is 0 for one that was just trained. Where memory is short it is not asked. Raises `Interrupted`
        once `going` says no.
        """
        alive = np.arange(len(rows)) if dead is None else np.flatnonzero(~dead[: len(rows)])
        recent = alive[alive >= first_slot]
        count = min(self._settings.probe_questions, len(recent))
        if not count or len(recent) < _LEAST_RECENT:
            return None

        def check() -> None:
            if not going():
                raise Interrupted

        try:
            probe = self._probed(base, rows, alive, recent, questions=count, check=check)
        except MemoryBudgetError as error:
            _log.info("the index of %r is not probed: %s", self._collection, error)
            return None
        watched = self.kept()
        same = watched is not None and (watched.fresh.method, watched.fresh.of_rows) == (probe.method, probe.of_rows)
        fresh = watched.fresh if watched is not None and same and first_slot else probe
        try:
            self._files.replace(self._path, json.dumps(Watched(fresh, probe).as_dict(), indent=1).encode())
        except OSError as error:  # the index is as good without
            _log.warning("what a probe of %r found is not kept: %s", self._collection, error)
        reason = why_drifted(fresh, probe, target=self._settings.recall_target)
        self._stream.publish(
            IndexProbed(
                collection=self._collection,
                method=probe.method,
                rows=probe.rows,
                recent_rows=probe.recent_rows,
                questions=probe.questions,
                recall=probe.recall,
                recall_low=probe.recall_low,
                recall_high=probe.recall_high,
                error=probe.error,
                fresh_error=fresh.error,
            )
        )
        return reason

    def _probed(
        self, base: Base, rows: Rows, alive: Slots, recent: Slots, *, questions: int, check: Callable[[], None]
    ) -> Probe:
        wanted_bytes = working_bytes(questions, rows.codec.dimension)
        budget = nullcontext() if self._governor is None else self._governor.reserve("probing an index", wanted_bytes)
        with bulk_work(), budget:
            # Between two of the new rows: what lies farther from them asks about the old ones as well.
            asked = mixtures(rows, recent, questions, of=2, weight=0.7).vectors
            recalls = _recalls(base, rows, alive, asked, check=check)
            error = base.codes.error(rows.gather(recent[:: max(len(recent) // questions, 1)][:questions]))
        mean, low = float(recalls.mean()), lower_bound(recalls)
        return Probe(
            at=self._clock.now(),
            method=base.head.method.name,
            of_rows=base.head.of_rows,
            rows=base.codes.rows,
            recent_rows=len(recent),
            questions=questions,
            recall=mean,
            recall_low=max(low, 0.0),
            recall_high=min(2 * mean - low, 1.0),
            error=error,
        )


def _recalls(
    base: Base, rows: Rows, alive: Slots, asked: Float32, *, check: Callable[[], None]
) -> npt.NDArray[np.float64]:
    """Of each question; what scores as well as the tenth counts, since texts repeat."""
    _, truth = nearest(rows, alive, asked, _K, check=check)
    allowed = np.zeros(len(rows), np.bool_)
    allowed[alive] = True
    index = base.over(rows)
    found = []
    for query, best in zip(asked, truth, strict=True):
        check()
        least = best.min() - _ALIKE * float(np.abs(best).max())
        scores = index.search(query, _K, allowed=None if len(alive) == len(rows) else allowed).scores
        found.append(np.count_nonzero(scores >= least) / len(best))
    return np.asarray(found)

"""The counts of one collection's accesses, kept in a file now and then so that a restart does not lose them.

They are no truth, and no change waits for them: what a kill or a damaged file loses is a part of what was counted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from embank.store.hot import checked
from embank.store.hot.counts import Counted, SpaceSaving
from embank.system.background import Background
from embank.system.clock import Clock
from embank.system.files import Files
from embank.system.log import get_logger

_log = get_logger(__name__)


class Accesses:
    """Thread-safe. `name` is of what they are: counts of anything else at `path` are not taken over.

    With `writes`, they are written after every `save_every` accesses, by a thread of their own, and at `close`.
    """

    def __init__(
        self, path: Path, name: str, *, counters: int, save_every: int, writes: bool, files: Files, clock: Clock
    ) -> None:
        self._path = path
        self._name = name
        self._counters = counters
        self._save_every = save_every
        self._writes = writes
        self._files = files
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._counts: SpaceSaving | None = None
        self._saved_total = 0
        self._thread = Background("hot counts", self._turn, clock=clock)

    @property
    def counters(self) -> int:
        """How many documents are counted at most."""
        return self._counters

    def used_bytes(self) -> int:
        counts = self._counts
        return 0 if counts is None else counts.used_bytes()

    def add(self, names: Iterable[str]) -> None:
        """Count an access of each; a microsecond or two for each name, but for the first call, which reads the file."""
        if not self._counters:
            return
        with self._lock:
            if not self._counters:  # discarded this moment
                return
            counts = self._loaded()
            for name in names:
                counts.add(name)
            due = counts.total - self._saved_total >= self._save_every
        if due and self._writes:
            self._thread.wake()

    def forget(self, names: Iterable[str]) -> None:
        """Drop what was counted of documents that are no more."""
        with self._lock:
            self._loaded().forget(names)

    def top(self, limit: int | None = None) -> list[Counted]:
        """The most accessed, first."""
        with self._lock:
            return self._loaded().top(limit)

    def figures(self) -> tuple[int, int, int]:
        """Accesses counted, documents that have a counter, and the most that one without may have had."""
        with self._lock:
            counts = self._loaded()
            return counts.total, len(counts), counts.floor

    def save(self) -> None:
        """Write them, if anything was counted since they were written. Raises `OSError`."""
        with self._saving:
            with self._lock:
                if self._counts is None or self._counts.total == self._saved_total or not self._writes:
                    return
                total, value = self._counts.total, self._counts.as_dict()
            checked.write(self._path, {"name": self._name, **value}, files=self._files)
            with self._lock:
                self._saved_total = total

    def discard(self) -> None:
        """Forget what was counted, also on the disk, and count no more. Raises nothing."""
        self._thread.close()
        with self._saving, self._lock:
            self._counters, self._counts = 0, SpaceSaving(0)
            try:
                if self._writes:
                    self._path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("the counts %s are still there: %s", self._path, error)
            self._writes = False

    def close(self) -> None:
        """Write what was counted, and end the thread."""
        self._thread.close()
        self._turn()

    def _turn(self) -> float | None:
        try:
            self.save()
        except OSError as error:  # tried again after as many accesses, or when it is closed
            _log.warning("the counts %s are not written: %s", self._path, error)
            with self._lock:
                self._saved_total = 0 if self._counts is None else self._counts.total
        return None

    def _loaded(self) -> SpaceSaving:
        if self._counts is None:
            self._counts = self._read()
            self._saved_total = self._counts.total
        return self._counts

    def _read(self) -> SpaceSaving:
        try:
            value = checked.read(self._path)
            if isinstance(value, dict) and value.get("name") == self._name:
                return SpaceSaving.from_dict(value, self._counters)
        except (OSError, ValueError) as error:
            _log.warning("the counts %s can't be read (%s): counting begins anew", self._path, error)
        return SpaceSaving(self._counters)

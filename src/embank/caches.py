"""The caches of one bank, made from the settings: embeddings, in memory and on disk, and answers to searches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embank.cache.disk import DiskLevel
from embank.cache.embeddings import EmbeddingCache
from embank.embed.cached import cached
from embank.search.results import Results
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.cache.settings import Settings
    from embank.cache.stats import CacheStats
    from embank.cache.weighed import WeighedStats
    from embank.embed.model import Model
    from embank.events.stream import Stream
    from embank.memory.governor import Governor
    from embank.system.clock import Clock

_log = get_logger(__name__)

DISK_FILE = Path("cache") / "embeddings"
"""Within the bank. It may be removed while no process has the bank open: what it held is computed again."""


@dataclass(frozen=True, slots=True)
class CachesSnapshot:
    """All of them at one moment; `None` where one is turned off. `embeddings.second` is the one on disk."""

    embeddings: CacheStats | None
    results: WeighedStats | None
    disk_limit_bytes: int | None

    @property
    def disk_bytes(self) -> int:
        """What is taken on disk."""
        second = None if self.embeddings is None else self.embeddings.second
        return 0 if second is None else second.bytes

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "embeddings": None if self.embeddings is None else self.embeddings.as_dict(),
            "results": None if self.results is None else self.results.as_dict(),
            "disk_limit_bytes": self.disk_limit_bytes,
        }


class Caches:
    """See the module. Thread-safe. Each one registers with the governor."""

    def __init__(
        self, settings: Settings, root: Path, *, read_only: bool, governor: Governor, stream: Stream, clock: Clock
    ) -> None:
        self._path = root / DISK_FILE
        self._read_only = read_only
        self._embeddings: EmbeddingCache | None = None
        self._disk: DiskLevel | None = None
        if settings.enabled:
            self._disk = disk = _disk(settings, self._path, read_only=read_only) if settings.disk else None
            self._embeddings = EmbeddingCache(
                settings.limit,
                policy=settings.policy,
                dtype=settings.dtype,
                governor=governor,
                second=disk,
                clock=clock,
                secret=None if disk is None else disk.secret,
                stream=stream,
            )
        limit_bytes = settings.results_limit.resolve(governor.budget_bytes)
        self.results = Results(limit_bytes, governor=governor, clock=clock, stream=stream) if settings.results else None

    def around(self, model: Model) -> Model:
        """`model` with the embedding cache in front, where there is one."""
        return model if self._embeddings is None else cached(model, self._embeddings)

    def warm_up(self, model: Model) -> int:
        """Fetch this model's latest vectors from the disk, where there are some; how many came."""
        if self._embeddings is None:
            return 0
        return self._embeddings.warm_up(space=model.fingerprint, dimension=model.dimension)

    def snapshot(self) -> CachesSnapshot:
        """Counters, bytes and ages of each, as of now."""
        return CachesSnapshot(
            None if self._embeddings is None else self._embeddings.stats(),
            None if self.results is None else self.results.stats(),
            None if self._disk is None else self._disk.limit_bytes,
        )

    def clear(self) -> int:
        """Empty all of them, the one on disk as well; the bytes of memory freed.

        Where the one on disk is turned off, what it left behind is removed, unless the bank is only read here.
        """
        if self._disk is None and not self._read_only:
            self._path.unlink(missing_ok=True)
        freed_bytes = 0 if self._embeddings is None else self._embeddings.clear()
        return freed_bytes + (0 if self.results is None else self.results.clear())

    def close(self) -> None:
        """Give everything back and leave the governor."""
        if self.results is not None:
            self.results.close()
        if self._embeddings is not None:
            self._embeddings.close()


def _disk(settings: Settings, path: Path, *, read_only: bool) -> DiskLevel | None:
    try:
        return DiskLevel(path, settings.disk_limit, read_only=read_only)
    except OSError as error:
        if not (read_only and isinstance(error, FileNotFoundError)):  # for a reader there may well be none yet
            _log.warning("embeddings are not kept on disk: %s", error)
        return None

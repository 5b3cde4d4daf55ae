"""What stands between batching and a runtime: one padded batch in, one row of numbers a text out.

An engine knows token ids and arithmetic. It knows nothing of budgets, windows, duplicates, normalisation or events:
`embank.embed.batching` does that once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from embank.embed.files.catalog import KnownModel
    from embank.embed.model import Fingerprint, Kind, Precision, Vectors
    from embank.embed.settings import Settings
    from embank.events.kinds import Event

    TokenIds = npt.NDArray[np.int32]
    """int32, shape (tokens,): one text's ids with its special tokens, already truncated."""

OnProgress = Callable[[float, str], None]
"""Told the fraction done, 0 to 1, and the step in words."""


class Grant(Protocol):
    """Bytes promised by a budget, given back when the context ends."""

    @property
    def granted_bytes(self) -> int: ...


class Budget(Protocol):
    """The part of the memory governor that computing uses."""

    def reserve(
        self, what: str, wanted_bytes: int, *, least_bytes: int | None = None, wait_s: float = 0.0
    ) -> AbstractContextManager[Grant]: ...


class Publisher(Protocol):
    """The part of the event stream that embedding uses."""

    def publish(self, event: Event) -> object: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as token ids. Mostly one row a text; with `embed.long_texts = "split"` a long text has several.

    `owners` then says whose each row is: int, shape (rows,), rising, every text at least once; None where rows and
    texts are the same. `truncated` counts texts of which something was left out.
    """

    rows: list[TokenIds]
    owners: npt.NDArray[np.intp] | None = None
    truncated: int = 0


class Engine(Protocol):
    """A loaded model. Thread-safe but for `close`, which is called when nobody uses it."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def device(self) -> str:
        """Where it computes, resolved: `cpu`, `cuda:0`."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest text it computes, with special tokens; longer ones are truncated."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Rows times the longest text that one batch may have."""
        ...

    @property
    def lanes(self) -> int:
        """How many batches it computes at the same time; `forward` may be called by so many threads."""
        ...

    @property
    def length_step(self) -> int | None:
        """Texts are computed at their length rounded up to a multiple of this, and never beside those of another width.

        None where neighbours of any length change nothing.
        """
        ...

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        """Token ids of each text, at least one, after the prefix for its kind; no row is longer than `max_tokens`."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, untruncated, without special tokens and prefix."""
        ...

    def batch_bytes(self, rows: int, width: int) -> int:
        """Working memory that a batch of padded width `width` takes. Proportional to `rows`."""
        ...

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        """float32 (rows, dimension), pooled, of any norm. Owns its memory."""
        ...

    def used_bytes(self) -> int:
        """Estimate of the anonymous memory that the loaded model holds."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Recyclable(Protocol):
    """An engine whose model lives in a process that can be replaced by a fresh one."""

    def recycle(self, *, room_bytes: int = 0) -> int:
        """End that process once its batches are done, for the next request to start a fresh one; the bytes it held.

        Where the model would fit into `room_bytes` once more, the fresh one is started first, and nobody waits. 0 where
        there is no such process. Waits for it; thread-safe.
        """
        ...


def recycle(engine: object, *, room_bytes: int) -> int:
    """See `Recyclable`; of an engine that lives in this process there is nothing to recycle."""
    return engine.recycle(room_bytes=room_bytes) if isinstance(engine, Recyclable) else 0


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """All that an engine's `load` is told. `folder` holds the source files; None: only a converted copy may be here.

    `device` is as the user wrote it; the engine resolves it with `embank.embed.device.resolve_device`. `anew` has a
    converted copy made again, even if one is there, whole.
    """

    name: str
    folder: Path | None
    known: KnownModel | None
    precision: Precision
    device: str
    settings: Settings
    models_directory: Path
    budget: Budget
    publisher: Publisher
    on_progress: OnProgress
    anew: bool = False


class Unbudgeted:
    """Grants everything: for a model used alone, without a governor."""

    def reserve(
        self,
        what: str,  # noqa: ARG002 - the protocol's
        wanted_bytes: int,
        *,
        least_bytes: int | None = None,  # noqa: ARG002
        wait_s: float = 0.0,  # noqa: ARG002
    ) -> AbstractContextManager[Grant]:
        return _Granted(wanted_bytes)


@dataclass(frozen=True, slots=True)
class _Granted:
    granted_bytes: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Unheard:
    """Publishes to nobody."""

    def publish(self, event: Event) -> None: ...

"""What a library of vector indexes offers to be a kind of index here, its own or a third party's.

A backend is looked up by the kind's name (`embank.registry.INDEXES`; a third party adds one with an entry point in the
group `embank.indexes`). It decides parameters, makes codes, and finds again what was kept. Nothing else is its affair:
filters, tombstones, the tail, exact scores, when to build and what fits into memory are settled above it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from embank.errors import InvalidInput
from embank.registry import INDEXES, resolve
from embank.store.index.protocol import Codes, Float32, Read, Way
from embank.store.index.settings import Settings
from embank.store.metric import Metric

W = TypeVar("W", bound=Way)

FOLDER = "index"
"""The folder of a home, beside the saved file."""


@dataclass(frozen=True, slots=True)
class Home:
    """What the codes of one generation of one collection may keep outside their file.

    `folder`: a directory that is theirs alone; it need not exist yet, and goes with the generation. `name`: which truth
    they are derived from, for what is kept on a server; no two banks have it, a copy of a bank has another.
    `limit_bytes`: what one index may hold, for caches that would hold anything.
    """

    folder: Path
    name: str
    settings: Settings
    read_only: bool = False
    limit_bytes: int = 1 << 30


class Untrained:
    """What ways have in common that train nothing on a sample handed to them, and look at a part in each search."""

    __slots__ = ()

    @property
    def exhaustive(self) -> bool:
        return False

    @property
    def least_rows(self) -> int:
        return 1

    @property
    def wanted_rows(self) -> int:
        return 1

    def check_rows(self, rows: int) -> None:
        """Any number will do, but none at all."""
        if rows < self.least_rows:
            raise InvalidInput("an index is made of one vector at least", least_rows=self.least_rows, rows=rows)


class Backend(ABC, Generic[W]):
    """Makes codes of one kind or of several, and finds them again. Thread-safe; it has no state of its own."""

    @abstractmethod
    def require(self, settings: Settings) -> object:
        """Raise `MissingExtra` unless what it needs, under these settings, is installed."""

    @abstractmethod
    def way(self, settings: Settings, kind: str, dimension: int, rows: int, metric: Metric) -> W:
        """How `rows` vectors are to be kept, which are compared by `metric`.

        Raises `InvalidInput` for settings that don't fit each other.
        """

    @abstractmethod
    def read_way(self, values: dict[str, Any]) -> W:
        """What `as_dict` of a way gave. Raises `TypeError` or `KeyError` for what is none."""

    @abstractmethod
    def make(self, way: W, sample: Float32, home: Home) -> Codes:
        """Empty codes, trained on float32 rows of shape (n, dimension). Raises `InvalidInput`, `IndexUnavailable`."""

    @abstractmethod
    def load(self, way: W, read: Read, home: Home) -> Codes:
        """Codes as `save` left them, while others may be searching them. `read(n)` gives at most `n` bytes more.

        Raises `ValueError` for what is damaged or of other content, and `IndexUnavailable` for what can't be reached.
        """

    def check(self, way: W, read: Read, folder: Path) -> None:
        """Raise `ValueError` where what is kept in the folder of a home is damaged; `read` is that of `load`."""

    def bounded(self, threads: int) -> AbstractContextManager[None]:  # noqa: ARG002 -- not every library can be told
        """Have the library work with so many threads where the block calls it."""
        return nullcontext()

    def tidy(self, codes: Codes, home: Home) -> None:
        """Remove what earlier codes kept at `home`; `codes` are those in use from now on."""

    def remove(self, way: W, home: Home) -> None:
        """Remove all that is kept for `home`. Raises `IndexUnavailable`."""


def backend(kind: str) -> Backend[Any]:
    """The backend of that kind. Raises `InvalidInput` for a name that nobody installed."""
    return cast("Backend[Any]", resolve(INDEXES, kind))

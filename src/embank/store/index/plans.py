"""The plan of a collection: made when there is none that still holds, kept beside the index, and shown to people."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from embank.errors import EmbankError
from embank.memory.governor import Governor
from embank.store import chunks
from embank.store.collections import Row
from embank.store.index import faiss
from embank.store.index.planner import QUESTIONS, Plan, Planner, Questions, mixtures
from embank.store.index.protocol import Float32, Mask, Slots
from embank.store.index.settings import Settings
from embank.store.protocol import CollectionInfo
from embank.store.vectors import Rows
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.sqlite import Readers

_log = get_logger(__name__)

_HOLDS_FACTOR = 4
"""A plan holds until there are so many times the rows for which it was made."""

_MOST_WORDS = 4

Ask = Callable[[CollectionInfo, list[str]], Float32 | None]
"""Questions embedded as a collection's vectors are compared with; `None` where there is no model to do it."""


class Plans:
    """One collection's plan. For one thread at a time, but for `kept`."""

    def __init__(
        self,
        path: Path,
        readers: Readers,
        *,
        settings: Settings,
        files: Files,
        ask: Ask | None,
        governor: Governor | None = None,
    ) -> None:
        self._path = path
        self._readers = readers
        self._settings = settings
        self._files = files
        self._ask = ask
        self._governor = governor

    def kept(self) -> Plan | None:
        """The plan that was made last; `None` where there is none that can be read."""
        try:
            return Plan.from_dict(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("the plan %s can't be read (%s): it is made anew", self._path, error)
            return None

    def take(self, other: Plans) -> None:
        """Keep the plan of `other`, which is over the same vectors, where there is none here. Raises `OSError`."""
        plan = other.kept()
        if plan is not None and not self._path.exists():
            self._keep(plan)

    def current(self, rows: int, limit_bytes: int) -> Plan | None:
        """The kept plan, where it still holds."""
        plan = self.kept()
        if plan is None or plan.recall_target != self._settings.recall_target or rows > _HOLDS_FACTOR * plan.rows:
            return None
        if plan.limit_bytes == limit_bytes:
            return plan
        fits = plan.chosen is not None and plan.chosen.held_bytes(rows) <= limit_bytes
        return plan if fits else None

    def make(
        self,
        row: Row,
        rows: Rows,
        dead: Mask | None,
        *,
        limit_bytes: int,
        going: Callable[[], bool],
        keep: bool = True,
    ) -> Plan:
        """Measure, and `keep` what was found.

        Raises `Interrupted`, `BudgetExceeded`, `MissingExtra`, and `OSError` of the disk.
        """
        faiss.require()
        living = np.arange(len(rows)) if dead is None else np.flatnonzero(~dead[: len(rows)])
        planner = Planner(self._settings, limit_bytes=limit_bytes, going=going, governor=self._governor)
        plan = planner.plan(rows, dead, self.questions(row, rows, living))
        if keep:
            self._keep(plan)
        return plan

    def _keep(self, plan: Plan) -> None:
        self._files.make_directory(self._path.parent)
        self._files.replace(self._path, json.dumps(plan.as_dict(), indent=1).encode())

    def questions(self, row: Row, rows: Rows, living: Slots) -> Questions:
        """Short questions of the collection's own words, as people ask; held-out passages would flatter."""
        random = np.random.default_rng(0)
        slots = random.choice(living, min(QUESTIONS, len(living)), replace=False)
        if self._ask is not None:
            with self._readers.read() as connection:
                texts = [passage.text for passage in chunks.passages(connection, row, slots.tolist())]
            short = [_some_words(text, random) for text in texts if text.strip()]
            try:
                asked = self._ask(row.info, short) if short else None
            except EmbankError as error:
                _log.warning("no questions for the plan of %r can be embedded: %s", row.info.name, error)
                asked = None
            if asked is not None and asked.shape == (len(short), rows.codec.dimension):
                return Questions(asked, f"{len(short):,} questions of 1 to {_MOST_WORDS} words out of passages")
        return mixtures(rows, living)


def _some_words(text: str, random: np.random.Generator) -> str:
    words = text.split()
    count = int(random.integers(1, _MOST_WORDS + 1))
    first = int(random.integers(0, max(len(words) - count, 0) + 1))
    return " ".join(words[first : first + count])

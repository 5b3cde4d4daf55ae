"""Reranking: a model that reads question and passage together puts the best candidates in order anew.

None is required. `search.reranker` names one: a model's folder (`crossencoder`), or what another package offers in the
entry point group `embank.rerankers`: something that is called without arguments and gives a `Reranker`. In Python
`embank.open(reranker=...)` takes one as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from embank.errors import EmbeddingFailed, InvalidInput
from embank.registry import RERANKERS, resolve
from embank.search.fuse import Fused
from embank.search.picking import taken
from embank.store.index.protocol import Float32

if TYPE_CHECKING:
    from embank.embed.settings import Settings as EmbedSettings
    from embank.memory.governor import Governor
    from embank.search.settings import Settings
    from embank.system.clock import Clock


@runtime_checkable
class Reranker(Protocol):
    """What scores passages against a question. Thread-safe."""

    @property
    def name(self) -> str: ...

    def score(self, query: str, texts: Sequence[str]) -> Float32:
        """How well each text answers, higher for better: float32, shape (len(texts),), on the reranker's own scale.

        A text's score does not depend on those beside it. Too long ones are cut.
        """
        ...


class Rerankers:
    """The reranker of one bank, made when it is first needed: the caller's `own`, else what the settings name."""

    def __init__(
        self,
        settings: Settings,
        *,
        own: Reranker | None,
        embed: EmbedSettings,
        governor: Governor,
        clock: Clock,
    ) -> None:
        if own is not None and not isinstance(own, Reranker):
            raise InvalidInput(f"a reranker has a name and a method score(query, texts), not so {type(own).__name__}")
        self._settings, self._embed = settings, embed
        self._governor, self._clock = governor, clock
        self._lock = threading.Lock()
        self._made = own

    def get(self) -> Reranker | None:
        """The reranker; `None` where there is none.

        Raises `InvalidInput` for a name that is none, `ModelFileError` and `MissingExtra`.
        """
        named = self._settings.reranker
        with self._lock:
            if self._made is None and named is not None:
                self._made = self._make(named)
            return self._made

    def close(self) -> None:
        """Let go what a model of our own holds."""
        close = getattr(self._made, "close", None)
        if close is not None:
            close()

    def _make(self, named: str) -> Reranker:
        if not Path(named).is_dir():
            made: Any = resolve(RERANKERS, named)()
            if not isinstance(made, Reranker):
                raise InvalidInput(
                    f"what is installed as the reranker {named!r} has no name, or no score(query, texts)"
                )
            return made
        from embank.search.crossencoder import CrossEncoder

        return CrossEncoder(
            Path(named), governor=self._governor, clock=self._clock, keep_alive_s=self._embed.keep_alive_s
        )


def reranked(found: Fused, reranker: Reranker, query: str, texts: Sequence[str]) -> Fused:
    """The candidates, whose `texts` these are, by the reranker's scores; of equal ones the better before stays so.

    Raises `EmbeddingFailed` where it does not give one finite number for each.
    """
    scores = np.asarray(reranker.score(query, texts), np.float32)
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise EmbeddingFailed(
            f"the reranker {reranker.name!r} gave scores that are not finite, or of shape {scores.shape}, for "
            f"{len(texts)} texts",
            reranker=reranker.name,
        )
    order = np.argsort(-scores, kind="stable")
    return replace(taken(found, order), score=scores[order])

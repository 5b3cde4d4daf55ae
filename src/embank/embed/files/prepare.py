"""Getting a model ready before it is needed: converting it, or opening it once and trying it.

Goes the way that every use of a model goes, through its engine; what is found wrong here would be found wrong there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embank.embed.engine import LoadRequest, Unbudgeted, Unheard
from embank.embed.files.catalog import KNOWN, KnownModel
from embank.embed.files.inventory import ModelFiles, list_files
from embank.embed.files.locate import locate, models_directory
from embank.embed.formats.folder import own_engine
from embank.embed.formats.verify import check_against_reference, read_reference
from embank.errors import InvalidInput
from embank.events.kinds import Event, ModelConverted
from embank.registry import ENGINES, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embank.embed.engine import Budget, OnProgress, Publisher
    from embank.embed.loader import Loader
    from embank.embed.model import Precision
    from embank.embed.settings import Settings

_TRIED_TEXT = "The quick brown fox jumps over the lazy dog."
# Of the stored texts; all of them were compared when the model was converted.
_COMPARED_TEXTS = 8


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted copy. `made` is False where it was there, whole, already."""

    files: ModelFiles
    made: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Warmed:
    """A model that was opened and tried.

    `first_text_s` is the time of one short text, `least_cosine` the agreement with the original's stored vectors, None
    where none are stored.
    """

    name: str
    fingerprint: str
    engine: str
    precision: str
    dimension: int
    load_s: float
    first_text_s: float
    least_cosine: float | None
    used_bytes: int


def convert(
    name: str,
    *,
    settings: Settings,
    precision: Precision | None = None,
    engine: str | None = None,
    anew: bool = False,
    budget: Budget | None = None,
    publisher: Publisher | None = None,
    on_progress: OnProgress = lambda _fraction, _step: None,
    known: Mapping[str, KnownModel] = KNOWN,
) -> Converted:
    """Convert a known model, a pulled repository or a folder into its engine's own form, and compare it.

    `anew` makes it again where it is there; the one before stays until the new one is whole. Raises what opening the
    model raises, and `InvalidInput` for an engine that needs no converted copy.
    """
    directory = models_directory(settings.directory)
    located = locate(name, directory=directory, known=known)
    own = located.known.engine if located.known is not None else own_engine(located.folder)
    wanted: Precision = precision or settings.precision
    if located.known is not None and len(located.known.precisions) == 1:
        wanted = located.known.precisions[0]
    heard = _Converting(publisher or Unheard())
    request = LoadRequest(
        name=located.name,
        folder=located.folder,
        known=located.known,
        precision=wanted,
        device="cpu",  # a copy is the same wherever it is used
        settings=settings,
        models_directory=directory,
        budget=budget or Unbudgeted(),
        publisher=heard,
        on_progress=on_progress,
        anew=anew,
    )
    started_s, at_s = time.perf_counter(), time.time()
    opened = resolve(ENGINES, engine or own)(request)
    try:
        copies = [
            each
            for each in list_files(directory, known={})
            if each.kind == "converted" and each.name == located.name and each.precision == wanted and each.in_use
        ]
    finally:
        opened.close()
    # The one that was opened just now; file systems tell the time in steps.
    copies = [each for each in copies if (each.last_used_s or 0.0) > at_s - 0.1]
    if not copies:
        raise InvalidInput(
            f"the {engine or own} engine opens {located.name!r} as it was published: there is nothing to convert",
            name=name,
        )
    newest = max(copies, key=lambda each: each.last_used_s or 0.0)
    return Converted(replace(newest, in_use=False), heard.converted, time.perf_counter() - started_s)


class _Converting:
    """Passes events on, and remembers whether a conversion was among them."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.converted = False

    def publish(self, event: Event) -> object:
        self.converted = self.converted or isinstance(event, ModelConverted)
        return self._publisher.publish(event)


def warm(
    loader: Loader, name: str | None = None, *, precision: Precision | None = None, engine: str | None = None
) -> Warmed:
    """Find, convert where needed, open, embed one text and compare. The model stays open in `loader`.

    Raises what `Loader.get` raises, and `ModelFileError` where it computes what the original does not.
    """
    started_s = time.perf_counter()
    model: Any = loader.get(name, precision=precision, engine=engine)
    load_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    model.embed([_TRIED_TEXT], "query")
    first_text_s = time.perf_counter() - started_s
    of_engine, at_precision = str(model.fingerprint).rsplit(":", 4)[1:3]
    reference = read_reference(model.model_name)
    least = None
    if reference is not None and reference[1].shape[1] == model.dimension:  # else it was cut
        least = check_against_reference(
            model.model_name,
            at_precision,  # type: ignore[arg-type]
            lambda texts: model.embed(texts, "passage"),
            texts=_COMPARED_TEXTS,
        )
    return Warmed(
        name=model.model_name,
        fingerprint=str(model.fingerprint),
        engine=of_engine,
        precision=at_precision,
        dimension=model.dimension,
        load_s=load_s,
        first_text_s=first_text_s,
        least_cosine=least,
        used_bytes=model.used_bytes(),
    )

"""Whether a pulled model has a newer revision on its hub, and getting that one: only ever when asked for.

A repository's model is pinned to the commit that it was pulled at, and moves only by `update`. A model of the catalogue
is pinned by Embank itself: its checksums and reference vectors are part of the program, and so is its revision.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embank.embed.files.catalog import KNOWN, KnownModel
from embank.embed.files.inventory import ModelFiles, list_files
from embank.embed.files.pull import MAIN, PulledModel, pull
from embank.embed.files.pulled import Pulled, as_repository, current, find_revision, read_pulled, stem_of
from embank.errors import InvalidInput, ModelNotFound
from embank.registry import nearest

if TYPE_CHECKING:
    from embank.embed.engine import Publisher
    from embank.embed.files.hub import Hub
    from embank.embed.files.pull import OnPull

Standing = Literal["current", "outdated", "pinned", "gone"]
"""`pinned`: the hub has another revision, and this one stays by Embank's or the user's own choice. `gone`: the hub no
longer has the repository, or the branch."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """A model's revision beside the hub's. `asked` is the branch or tag it follows, None where nothing moves it."""

    name: str
    repository: str
    revision: str
    asked: str | None
    newest: str | None
    standing: Standing
    by_embank: bool = False

    @property
    def meaning(self) -> str:
        """What that means, and what to do, in words."""
        if self.standing == "current":
            return "this is the hub's newest"
        if self.standing == "gone":
            return "the hub no longer has it; what is here works on"
        if self.standing == "outdated":
            return f"get the newer one with `embank models update {self.repository}`"
        if self.by_embank:
            return (
                f"pinned by Embank, which knows this revision's checksums and vectors; a newer Embank may bring "
                f"another. The hub's own: `embank models pull {self.repository} --revision {MAIN}`, then "
                f"`--model {self.repository}@{MAIN}`"
            )
        return f"pinned by you to this commit; `embank models pull {self.repository} --revision {MAIN}` follows {MAIN}"


def outdated(
    directory: Path, hub: Hub, *, names: Collection[str] = (), known: Mapping[str, KnownModel] = KNOWN
) -> list[Freshness]:
    """Each model that is here and came from a hub, compared with the hub: one request a model.

    `names` limits it to some. Raises `ModelNotFound` for a name that is not here, and `HubError` as soon as the hub
    can't be asked.
    """
    found = _followed(list_files(directory, known=known), known)
    chosen = list(found.values())
    if names:
        chosen = []
        for name in names:
            match = [each for key, each in found.items() if name in (key, each.repository, f"{each.repository}@{MAIN}")]
            if not match:
                guess = nearest(name, found)
                hint = f"; did you mean {guess!r}?" if guess else ""
                raise ModelNotFound(f"no model {name!r} that came from a hub is here{hint}", name=name)
            chosen += match
    return [_compare(each, hub, by_embank=each.asked is None) for each in chosen]


def update(
    name: str,
    *,
    directory: Path,
    hub: Hub,
    limit_bytes: int | None = None,
    on_progress: OnPull = lambda _: None,
    publisher: Publisher | None = None,
    known: Mapping[str, KnownModel] = KNOWN,
) -> PulledModel:
    """Bring the newest revision of a pulled repository beside the one that is here, and switch when it is whole.

    The older one stays until it is pruned; who has it open goes on with it. Raises `ModelNotFound` where it was never
    pulled, `InvalidInput` for a model that is pinned (by Embank, or by the user to a commit), and what `pull` raises.
    """
    model = next((each for each in known.values() if name in (each.name, *each.aliases)), None)
    if model is not None:
        way = f", or get the hub's own with `embank models pull {model.repository} --revision {MAIN}`"
        raise InvalidInput(
            f"{model.name!r} is pinned by Embank: its revision, checksums and reference vectors are part of the "
            f"program, so that a newer Embank brings a newer one{way if model.repository else ''}",
            name=name,
        )
    pulled = _pulled_as(name, directory)
    if pulled.asked == pulled.revision or pulled.asked is None:
        raise InvalidInput(
            f"{pulled.repository} was pulled at the commit {pulled.revision[:12]}, which does not move: pull a branch, "
            f"`embank models pull {pulled.repository} --revision {MAIN}`",
            name=name,
        )
    return pull(
        pulled.repository,
        directory=directory,
        hub=hub,
        revision=pulled.asked,
        form="onnx" if not any(path.endswith(".safetensors") for path in pulled.files) else "safetensors",
        limit_bytes=limit_bytes,
        on_progress=on_progress,
        publisher=publisher,
    )


def _pulled_as(name: str, directory: Path) -> Pulled:
    asked = as_repository(name.replace("--", "/"))
    folder = None if asked is None else find_revision(*asked, directory=directory)
    pulled = None if folder is None else read_pulled(folder)
    if pulled is None:
        raise ModelNotFound(
            f"no model {name!r} was pulled: `embank models list` shows those that were, `embank models pull "
            f"OWNER/NAME` gets one",
            name=name,
        )
    return pulled


def _followed(found: Collection[ModelFiles], known: Mapping[str, KnownModel]) -> dict[str, Pulled]:
    """The models to ask about: of a repository its current revision, of a known model the catalogue's."""
    followed: dict[str, Pulled] = {}
    for each in found:
        model = known.get(each.name)
        if model is not None:
            if model.repository is not None and model.revision is not None:
                followed[model.name] = Pulled(model.name, model.repository, model.revision, None, {})
        elif each.kind == "pulled" and each.repository is not None and each.problem is None:
            folder = current(stem_of(each.repository), directory=each.folder.parent)
            pulled = None if folder is None else read_pulled(folder)
            if pulled is not None:
                followed[pulled.name] = pulled
    return followed


def _compare(pulled: Pulled, hub: Hub, *, by_embank: bool) -> Freshness:
    moves = pulled.asked if pulled.asked != pulled.revision else None
    newest: str | None = None
    standing: Standing
    try:
        newest = hub.commit(pulled.repository, moves or MAIN)
    except ModelNotFound:
        standing = "gone"
    else:
        other: Standing = "pinned" if moves is None else "outdated"
        standing = "current" if newest == pulled.revision else other
    return Freshness(pulled.name, pulled.repository, pulled.revision, moves, newest, standing, by_embank)

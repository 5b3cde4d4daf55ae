"""Removing models from the disk: which ones, and doing it without taking anything from under a process.

Only what is Embank's own in its directory goes, or, where that was asked for, repositories of the hub client's cache.
A plan is made first, from what lies there; carrying it out checks once more, under locks.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embank.embed.engine import Unheard
from embank.embed.files import inuse
from embank.embed.files.inventory import ModelFiles, list_own
from embank.embed.files.pulled import forget_removed
from embank.errors import InvalidInput, ModelFileError, ModelInUse, ModelNotFound
from embank.events.kinds import ModelFilesRemoved
from embank.registry import nearest
from embank.system.files import Files
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.engine import Publisher
    from embank.embed.settings import Settings

_log = get_logger(__name__)

Why = Literal["asked", "leftover", "superseded", "damaged", "unused", "limit"]


@dataclass(frozen=True, slots=True)
class Removal:
    """One model's folder that goes, or went, and why."""

    files: ModelFiles
    why: Why


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go. `bytes_before` and `bytes_after` are those of all that were looked at.

    `in_use` would have gone, too, but for a process that uses it; `over_bytes` is what is therefore left above the
    limit.
    """

    removals: list[Removal]
    in_use: list[ModelFiles]
    bytes_before: int
    bytes_after: int
    over_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, and what did not with the reason in words."""

    removed: list[Removal]
    kept: list[tuple[ModelFiles, str]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes given back."""
        return sum(removal.files.bytes for removal in self.removed)


def limit_bytes(settings: Settings, directory: Path) -> int | None:
    """The most that Embank's directory may hold; a percentage is of the disk that it is on. None: no limit."""
    if settings.directory_limit is None:
        return None
    place = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    return settings.directory_limit.resolve(shutil.disk_usage(place).total)


def plan(
    found: Sequence[ModelFiles],
    *,
    names: Collection[str] = (),
    older_than_s: float | None = None,
    to_bytes: int | None = None,
    damaged: bool = False,
    now_s: float,
) -> Plan:
    """What is to go of `found`.

    With `names` exactly those: a model's name, its repository (`owner/name`, `owner/name@commit`) or its folder.
    Otherwise leftovers of what was interrupted and superseded revisions, with `damaged` what is, what was not used for
    `older_than_s` seconds, and then the least recently used until `to_bytes` are left. What was converted from a
    revision that goes, goes with it.

    Raises `ModelNotFound` for a name that is not there, `InvalidInput` for one that is not Embank's to remove,
    `ModelInUse` for one that is in use.
    """
    removable = [each for each in found if each.kind in ("converted", "pulled", "leftover", "hub-cache")]
    before = sum(each.bytes for each in removable)
    if names:
        chosen = {each.folder: Removal(each, "asked") for name in names for each in _named(name, found, removable)}
        _add_copies(chosen, removable)
        for removal in chosen.values():
            if removal.files.in_use:
                raise _in_use(removal.files)
        gone = sum(removal.files.bytes for removal in chosen.values())
        return Plan(list(chosen.values()), [], before, before - gone)
    chosen = {}
    for each in removable:
        why = _reason(each, damaged=damaged, before_s=None if older_than_s is None else now_s - older_than_s)
        if why is not None:
            chosen[each.folder] = Removal(each, why)
    _add_copies(chosen, removable)
    held = [removal.files for removal in chosen.values() if removal.files.in_use]
    removals = [removal for removal in chosen.values() if not removal.files.in_use]
    left = before - sum(removal.files.bytes for removal in removals)
    over = 0
    if to_bytes is not None:
        rest = [each for each in removable if each.folder not in chosen]
        for each in _least_recent_first(rest):
            if left <= to_bytes:
                break
            if each.in_use:
                held.append(each)
                continue
            removals.append(Removal(each, "limit"))
            left -= each.bytes
        over = max(left - to_bytes, 0)
    return Plan(removals, held, before, left, over)


def carry_out(
    made: Plan, *, publisher: Publisher | None = None, remove: Callable[[ModelFiles], None] | None = None
) -> Pruned:
    """Remove what is planned; what came into use meanwhile stays and is told. Each removal is logged and published.

    `remove` does it for one; by default as fits Embank's own directory. Raises `ModelFileError` where the disk refuses.
    """
    done = Pruned([], [(files, "in use") for files in made.in_use])
    heard = publisher or Unheard()
    for removal in made.removals:
        files = removal.files
        try:
            (remove or _remove)(files)
        except ModelInUse as error:
            done.kept.append((files, error.message))
            continue
        except OSError as error:
            raise ModelFileError(
                f"{files.folder} can't be removed: {error.strerror or error}", path=str(files.folder)
            ) from error
        done.removed.append(removal)
        heard.publish(ModelFilesRemoved(files.name, str(files.folder), files.bytes, removal.why))
        _log.info("removed %s (%s, %d bytes): %s", files.folder, files.name, files.bytes, removal.why)
    return done


def keep_within(
    directory: Path, limit: int | None, *, keep: Iterable[Path], publisher: Publisher | None = None
) -> Pruned:
    """Remove the least recently used of Embank's models, but those in `keep`, until all are within `limit` bytes.

    What is in use stays, and where the limit can't be met for that the log says so.
    """
    if limit is None:
        return Pruned([])
    kept = {folder.resolve() for folder in keep}
    found = list_own(directory)
    total = sum(each.bytes for each in found)
    removals = []
    for each in _least_recent_first(each for each in found if each.folder.resolve() not in kept and not each.in_use):
        if total <= limit:
            break
        removals.append(Removal(each, "limit"))
        total -= each.bytes
    done = carry_out(Plan(removals, [], total, total), publisher=publisher)
    total += sum(files.bytes for files, _ in done.kept)
    if total > limit:
        _log.warning("models take %d bytes, more than the limit of %d: the rest is in use", total, limit)
    return done


def _reason(files: ModelFiles, *, damaged: bool, before_s: float | None) -> Why | None:
    if files.kind == "leftover":
        return "leftover"
    if damaged and files.problem is not None and files.kind != "hub-cache":
        return "damaged"
    if files.superseded:
        return "superseded"
    if before_s is not None and files.last_used_s is not None and files.last_used_s < before_s:
        return "unused"
    return None


def _named(name: str, found: Sequence[ModelFiles], removable: Sequence[ModelFiles]) -> list[ModelFiles]:
    matching = [each for each in removable if _is_called(each, name)]
    if matching:
        return matching
    others = [each for each in found if _is_called(each, name)]
    if others:
        way = "remove its package" if others[0].kind == "package" else "it is not Embank's: remove it by hand"
        raise InvalidInput(f"{name!r} in {others[0].folder} is not removed by this: {way}", name=name)
    known = sorted({each.name for each in removable})
    guess = nearest(name, known)
    hint = f"; did you mean {guess!r}?" if guess else (f": there are {', '.join(known)}" if known else "")
    raise ModelNotFound(f"there are no files of a model {name!r}{hint}", name=name, known=known)


def _is_called(files: ModelFiles, name: str) -> bool:
    if name in (files.name, files.folder.name, str(files.folder), files.repository):
        return True
    repository, at, revision = name.partition("@")
    return bool(
        at
        and files.repository == repository
        and files.revision is not None
        and len(revision) >= 7
        and files.revision.startswith(revision)
    )


def _add_copies(chosen: dict[Path, Removal], removable: Sequence[ModelFiles]) -> None:
    """Copies that were converted from a pulled repository's revision that goes, and from none that stays."""
    pulled = [each for each in removable if each.kind == "pulled" and not _is_catalogued(each)]
    gone = {(each.name, each.weights) for each in pulled if each.folder in chosen}
    stay = {(each.name, each.weights) for each in pulled if each.folder not in chosen}
    for each in removable:
        key = (each.name, each.weights)
        if each.kind == "converted" and each.folder not in chosen and key in gone and key not in stay:
            why = next(removal.why for removal in chosen.values() if removal.files.name == each.name)
            chosen[each.folder] = Removal(each, why)


def _is_catalogued(files: ModelFiles) -> bool:
    """A known model's copy needs no source to be opened; a repository's does."""
    from embank.embed.files.catalog import find_known

    return find_known(files.name) is not None


def _least_recent_first(found: Iterable[ModelFiles]) -> list[ModelFiles]:
    return sorted(found, key=lambda each: (each.last_used_s or 0.0, each.name))


def _remove(files: ModelFiles) -> None:
    """Under both locks: nobody makes it, nobody has it open. Renamed first, so that it is never half there."""
    folder = files.folder
    if files.kind == "leftover":
        with inuse.making(folder.with_name(files.name), name=files.name):
            Files().remove_tree(folder)
        return
    with contextlib.ExitStack() as held:
        held.enter_context(inuse.making(folder, name=files.name))
        if not folder.is_dir():
            return  # another process was faster
        held.enter_context(inuse.exclusively(folder, name=files.name))
        gone = folder.with_name(f".{folder.name}.gone.tmp")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        Files().sync_directory(folder.parent)
        shutil.rmtree(gone)
        forget_removed(files.name, directory=folder.parent)


def _in_use(files: ModelFiles) -> ModelInUse:
    return ModelInUse(
        f"the model {files.name!r} is in use by a process: its files in {files.folder} stay until that lets it go",
        name=files.name,
        folder=str(files.folder),
    )

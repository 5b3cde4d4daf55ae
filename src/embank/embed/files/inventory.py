"""Everything of models on this disk, as data: what it is, what it weighs, when it was used, whether it is whole.

Covers Embank's own directory (converted copies, pulled models, leftovers, and what is there but not Embank's) and the
models that installed packages carry. The hub client's cache is `hubcache`'s affair. Changes nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embank.embed.files import inuse
from embank.embed.files.catalog import KNOWN, KnownModel
from embank.embed.files.locate import package_folders
from embank.embed.files.pulled import RECORD, check_pulled, read_pulled, repository_of, superseded_since
from embank.embed.formats.manifest import NAME, check_converted, read_manifest
from embank.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["converted", "pulled", "package", "hub-cache", "leftover", "foreign"]

_CONVERTED = re.compile(r"(?P<name>.+?)-(?P<weights>[0-9a-f]{4,64})-(?P<precision>[a-z0-9-]+)-v[0-9]+")
_PULLED = re.compile(r"(?P<name>.+)-(?P<commit>[0-9a-f]{12})")
# `.FOLDER.tmp` of a download, `.FOLDER.PID.tmp` of a conversion, `.FOLDER.old.tmp` and `.FOLDER.gone.tmp` of a removal.
_LEFTOVER = re.compile(r"\.(?P<folder>.+?)(?:\.(?:[0-9]+|old|gone))?\.tmp")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model's folder.

    `revision` is the commit of a pulled or cached model, `weights` the SHA-256 of the weights that a copy was converted
    from (or its beginning, of a damaged one). `last_used_s` is in seconds since the epoch. `problem` says what is
    wrong; None: whole, as far as it was looked at. `superseded` where another revision took its place and it was not
    used since.
    """

    name: str
    kind: Kind
    folder: Path
    bytes: int
    last_used_s: float | None
    in_use: bool
    engine: str | None = None
    precision: str | None = None
    repository: str | None = None
    revision: str | None = None
    pinned: bool = False
    weights: str | None = None
    problem: str | None = None
    superseded: bool = False


def list_files(directory: Path, *, check: bool = False, known: Mapping[str, KnownModel] = KNOWN) -> list[ModelFiles]:
    """What lies in Embank's `directory`, and the known models in packages, by name. Nothing is imported.

    `check` reads every file and compares checksums; without it sizes are compared.
    """
    found = list_own(directory, check=check, known=known)
    ours = {each.folder for each in found}
    for folder in _folders(directory):
        if folder not in ours and not folder.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                found.append(_files(folder.name, "foreign", folder, in_use=False))
    found += _in_packages(known, check=check)
    return sorted(found, key=lambda each: (each.name, each.kind, str(each.folder)))


def list_own(directory: Path, *, check: bool = False, known: Mapping[str, KnownModel] = KNOWN) -> list[ModelFiles]:
    """Only what is Embank's in its `directory`: what counts against the limit, and may be removed."""
    found = []
    for folder in _folders(directory):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            files = _look(folder, check=check, known=known)
            if files is not None:
                found.append(files)
    return found


def own(found: Iterable[ModelFiles]) -> list[ModelFiles]:
    """Those that `list_own` would list."""
    return [each for each in found if each.kind in ("converted", "pulled", "leftover")]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below. What vanishes meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total


def _folders(directory: Path) -> list[Path]:
    """Not the lock files and the like, and not what a link leads to."""
    if not directory.is_dir():
        return []
    return sorted(folder for folder in directory.iterdir() if folder.is_dir() and not folder.is_symlink())


def _look(folder: Path, *, check: bool, known: Mapping[str, KnownModel]) -> ModelFiles | None:
    """None for what is not Embank's."""
    if folder.name.startswith("."):
        return _leftover(folder)
    if (folder / NAME).is_file() or _CONVERTED.fullmatch(folder.name):
        return _converted(folder, check=check)
    if (folder / RECORD).is_file() or _pulled_by_name(folder, known):
        return _pulled(folder, check=check, known=known)
    return None


def _converted(folder: Path, *, check: bool) -> ModelFiles | None:
    """A converted copy; None for a folder whose manifest and name are not Embank's."""
    by_name = _CONVERTED.fullmatch(folder.name)
    try:
        manifest = read_manifest(folder)
    except ModelFileError as error:
        if by_name is None:
            return None
        return _files(
            by_name["name"],
            "converted",
            folder,
            precision=by_name["precision"],
            weights=by_name["weights"],
            problem=error.message,
        )
    problem = None
    try:
        if check:
            check_converted(folder, manifest)
        else:
            _check_sizes(folder, manifest.files)
    except ModelFileError as error:
        problem = error.message
    return _files(
        manifest.name,
        "converted",
        folder,
        engine=getattr(manifest, "engine", "ct2"),
        precision=manifest.precision,
        weights=next(iter(digest for name, digest in manifest.sources.items() if _is_weights(name)), None),
        problem=problem,
    )


def _pulled(folder: Path, *, check: bool, known: Mapping[str, KnownModel]) -> ModelFiles | None:
    match = _PULLED.fullmatch(folder.name)
    name = match["name"] if match else folder.name
    commit = match["commit"] if match else None
    try:
        pulled = read_pulled(folder)
        if pulled is None:  # by an Embank that wrote no record yet
            model = known[name]
            missing = [file for file in model.files if not (folder / file).is_file()]
            problem = f"{folder / missing[0]} is missing" if missing else None
            return _files(
                name, "pulled", folder, repository=model.repository, revision=commit, pinned=True, problem=problem
            )
    except ModelFileError as error:
        return _files(name, "pulled", folder, repository=repository_of(name), revision=commit, problem=error.message)
    problem = None
    try:
        check_pulled(folder, pulled, content=check)
    except ModelFileError as error:
        problem = error.message
    since_s = superseded_since(pulled.name, folder)
    weights = next((facts["sha256"] for path, facts in pulled.files.items() if _is_weights(path)), None)
    return _files(
        pulled.name,
        "pulled",
        folder,
        repository=pulled.repository,
        revision=pulled.revision,
        pinned=pulled.asked is None or pulled.asked == pulled.revision,
        weights=None if weights is None else str(weights),
        problem=problem,
        superseded=since_s is not None and inuse.last_used_s(folder) < since_s,
    )


def _leftover(folder: Path) -> ModelFiles | None:
    """What an interrupted download, conversion or removal left; in use where it is still going on."""
    match = _LEFTOVER.fullmatch(folder.name)
    if match is None:
        return None
    lock = inuse.making_lock(folder.with_name(match["folder"]))
    going_on = lock.is_file() and inuse.is_in_use(lock)
    return _files(match["folder"], "leftover", folder, in_use=going_on)


def _in_packages(known: Mapping[str, KnownModel], *, check: bool) -> Iterator[ModelFiles]:
    for model in known.values():
        for folder in package_folders(model):
            files = [folder / file for file in model.files]
            if not all(file.is_file() for file in files):
                continue
            problem = None
            if check:
                from embank.embed.files.locate import check_files

                try:
                    check_files(model, folder)
                except ModelFileError as error:
                    problem = error.message
            yield ModelFiles(
                name=model.name,
                kind="package",
                folder=folder,
                bytes=sum(file.stat().st_size for file in files),
                last_used_s=None,
                in_use=_in_use(folder),
                repository=model.repository,
                revision=model.revision,
                pinned=True,
                weights=model.files[model.weights],
                problem=problem,
            )


def _files(name: str, kind: Kind, folder: Path, *, in_use: bool | None = None, **more: object) -> ModelFiles:
    return ModelFiles(
        name=name,
        kind=kind,
        folder=folder,
        bytes=folder_bytes(folder),
        last_used_s=inuse.last_used_s(folder),
        in_use=_in_use(folder) if in_use is None else in_use,
        **more,  # type: ignore[arg-type]
    )


def _in_use(folder: Path) -> bool:
    try:
        return inuse.is_in_use(folder)
    except FileNotFoundError:
        raise
    except OSError:
        return True  # it can't be told, and then nothing is removed


def _pulled_by_name(folder: Path, known: Mapping[str, KnownModel]) -> bool:
    match = _PULLED.fullmatch(folder.name)
    return match is not None and match["name"] in known


def _check_sizes(folder: Path, files: Mapping[str, Mapping[str, int | str]]) -> None:
    for name, facts in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != facts["bytes"]:
            has = "is missing" if size is None else f"has {size} bytes where {facts['bytes']} were written"
            raise ModelFileError(f"{path} {has}", path=str(path))


def _is_weights(path: str) -> bool:
    return path.endswith((".safetensors", ".onnx")) and "/" not in path.removeprefix("onnx/")

"""From the name that a user wrote to a folder with a model's files, without importing or loading anything.

A known model is looked for in the package that carries it and among the models pulled; a path is taken as it is;
`owner/name`, `owner/name@revision` is a repository of the hub that was pulled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import platformdirs

from embank.embed.files.catalog import KNOWN, KnownModel, find_known
from embank.embed.files.checksum import sha256_of
from embank.embed.files.pulled import as_repository, find_revision, read_pulled
from embank.errors import ModelFileError, ModelNotFound
from embank.registry import nearest


@dataclass(frozen=True, slots=True)
class Located:
    """A model by name, what is known of it, and the folder of its source files; None where they are not here."""

    name: str
    known: KnownModel | None
    folder: Path | None


def models_directory(configured: Path | None) -> Path:
    """Where converted and pulled models are kept. It need not exist."""
    if configured is not None:
        return configured.expanduser()
    return Path(platformdirs.user_cache_dir("embank")) / "models"


def locate(name: str, *, directory: Path, known: Mapping[str, KnownModel] = KNOWN) -> Located:
    """Find a model. Known names come first, then paths of folders, then pulled repositories.

    A pulled one is called the same at every revision. Raises `ModelNotFound` for a name that is none of these, listing
    the known ones and suggesting the nearest.
    """
    model = find_known(name, known)
    if model is not None:
        return Located(model.name, model, find_files(model, directory=directory))
    path = Path(name).expanduser()
    if path.is_dir():
        resolved = path.resolve()
        pulled = read_pulled(resolved)
        return Located(pulled.name if pulled is not None else resolved.name, None, resolved)
    repository = as_repository(name)
    if repository is not None:
        return _pulled_repository(*repository, directory=directory)
    if _looks_like_path(name):
        raise ModelNotFound(f"there is no model folder {str(path)!r}", name=name)
    guess = nearest(name, known)
    hint = f"; did you mean {guess!r}?" if guess else ""
    raise ModelNotFound(
        f"unknown model {name!r}{hint} Known are {', '.join(known)}; a folder with a model's files will do, too"
        if hint
        else f"unknown model {name!r}: known are {', '.join(known)}; a folder with a model's files will do, too",
        name=name,
        known=list(known),
    )


def _pulled_repository(repository: str, revision: str | None, *, directory: Path) -> Located:
    folder = find_revision(repository, revision, directory=directory)
    pulled = None if folder is None else read_pulled(folder)
    if folder is None or pulled is None:
        option = f" --revision {revision}" if revision else ""
        raise ModelNotFound(
            f"there is no folder {repository!r} here, and the repository of that name is not on this machine"
            f"{f' at revision {revision}' if revision else ''}: get it with `embank models pull {repository}{option}`",
            name=repository,
        )
    return Located(pulled.name, None, folder)


def find_files(model: KnownModel, *, directory: Path) -> Path | None:
    """The folder that has all files of a known model: pulled, else in its package, else None."""
    pulled = pulled_folder(model, directory=directory)
    candidates = [*([pulled] if pulled else []), *package_folders(model)]
    return next((folder for folder in candidates if all((folder / file).is_file() for file in model.files)), None)


def pulled_folder(model: KnownModel, *, directory: Path) -> Path | None:
    """Where `models pull` puts a model; None where there is nothing to pull from."""
    return None if model.revision is None else directory / f"{model.name}-{model.revision[:12]}"


def check_files(model: KnownModel, folder: Path) -> None:
    """Compare every file with its published checksum. Raises `ModelFileError` naming the first that differs."""
    for file, wanted in model.files.items():
        found = sha256_of(folder / file)
        if found != wanted:
            raise ModelFileError(
                f"{folder / file} is not the file that the authors of {model.title} published: its SHA-256 begins "
                f"{found[:12]}, theirs {wanted[:12]}: {advice(model)}",
                path=str(folder / file),
                wanted=wanted,
                found=found,
            )


def not_here(model: KnownModel) -> ModelNotFound:
    """The error for a known model whose files are not on this machine, with every way to get one."""
    others = [other.name for other in KNOWN.values() if other.name != model.name]
    ways = [
        *([f"get it with `embank models pull {model.name}`"] if model.repository else []),
        *([f"install the package that carries it: `{model.install}`"] if model.install else []),
        *(f"use another model: `--model {other}`" for other in others),
        "name a folder with a model's files: `--model FOLDER`",
    ]
    return ModelNotFound(
        f"the model {model.name!r} ({model.title}) is not on this machine. Either " + ", or ".join(ways),
        name=model.name,
    )


def advice(model: KnownModel) -> str:
    """What to do about a damaged file of a known model."""
    if model.repository is not None:
        return f"get it anew with `embank models pull {model.name}`"
    return f"install it anew: `{model.install}`"


def package_folders(model: KnownModel) -> list[Path]:
    """Where installed packages would have the files of a known model.

    Found through the import system's paths, but never imported: the package may need what is not installed.
    """
    if model.package is None:
        return []
    spec = PathFinder.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        return []
    return [Path(place) / model.package_folder for place in spec.submodule_search_locations]


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or os.sep in name


def identity(located: Located) -> tuple[object, ...]:
    """Changes with the model's source files: their published checksums, or of a folder's what the file system tells."""
    if located.known is not None:
        return (located.name, *sorted(located.known.files.values()))
    if located.folder is None:
        return (located.name,)
    files = sorted(path for path in located.folder.rglob("*") if path.is_file())
    facts = ((str(path), path.stat()) for path in files)
    return (str(located.folder), *((name, stat.st_size, stat.st_mtime_ns) for name, stat in facts))

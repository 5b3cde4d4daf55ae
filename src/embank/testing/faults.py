"""Faults of the disk, on demand: a `Files` that fails where a test wants it to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from embank.system.files import Files


class FaultyFiles(Files):
    """Behaves like `Files` until told otherwise.

    `room_bytes`: how much may still be written before the disk is full (`None`: no limit). A write that no longer fits
    writes what does, as a kernel would, and raises `ENOSPC`. `fail_sync`: the next synchronisations raise `EIO`.
    """

    def __init__(self) -> None:
        self.room_bytes: int | None = None
        self.fail_sync = False
        self.synced: list[str] = []

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> None:
        view = data.cast("B")
        if self.room_bytes is None:
            super().write_at(descriptor, view, offset)
            return
        fits = view[: self.room_bytes]
        super().write_at(descriptor, fits, offset)
        self.room_bytes -= fits.nbytes
        if fits.nbytes < view.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def free_bytes(self, path: Path) -> int:
        free = super().free_bytes(path)
        return free if self.room_bytes is None else min(free, self.room_bytes)

    def sync_data(self, descriptor: int) -> None:
        if self.fail_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.synced.append("data")
        super().sync_data(descriptor)

    def sync_directory(self, path: Path) -> None:
        if self.fail_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.synced.append(path.name)
        super().sync_directory(path)

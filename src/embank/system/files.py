"""Durable file operations, in one injectable place.

`Files` does what the store needs done to the disk: append, synchronise, truncate, replace whole. Tests hand in a
subclass that fails where they want it to (`embank.testing.faults`). SQLite and tantivy do their own writing and are
not covered here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Files:
    """The real file system. Stateless and thread-safe; every method raises `OSError` as the kernel says."""

    def make_directory(self, path: Path, *, mode: int = 0o700) -> None:
        """Create `path` and its parents, durably. Only `path` itself gets `mode`; what exists is left as it is."""
        if path.is_dir():
            return
        self.make_directory(path.parent, mode=0o777)
        path.mkdir(mode=mode, exist_ok=True)
        self.sync_directory(path.parent)

    def open_append(self, path: Path) -> int:
        """A descriptor for reading and writing at explicit offsets; the file is created if missing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`, going on after short writes."""
        view = data.cast("B")
        while view.nbytes:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def sync_data(self, descriptor: int) -> None:
        """Return once the file's bytes, and the size needed to read them, are on the disk."""
        if hasattr(os, "fdatasync"):
            os.fdatasync(descriptor)
        else:  # macOS
            os.fsync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Make created, renamed and removed entries of a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def replace(self, path: Path, content: bytes, *, mode: int = 0o600) -> None:
        """Put `content` at `path` whole or not at all, durably: temporary file, fsync, rename, fsync of the folder."""
        with self.replacing(path, mode=mode) as write:
            write(content)

    @contextmanager
    def replacing(self, path: Path, *, mode: int = 0o600) -> Iterator[Callable[[bytes], None]]:
        """The same for content that comes in pieces: a function that writes the next; in place when the block ends."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        written = 0

        def write(piece: bytes) -> None:
            nonlocal written
            self.write_at(descriptor, memoryview(piece), written)
            written += len(piece)

        try:
            try:
                yield write
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.sync_directory(path.parent)

    def free_bytes(self, path: Path) -> int:
        """Bytes that this process may still write to the file system of `path`."""
        return shutil.disk_usage(path).free

    def tree_bytes(self, path: Path) -> int:
        """The sizes of all files in a directory and below; what is removed meanwhile, or is not there, counts 0."""
        total = 0
        for folder, _, names in os.walk(path):
            for name in names:
                try:
                    total += Path(folder, name).stat().st_size
                except FileNotFoundError:
                    continue
        return total

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all in it; one that is not there is fine."""
        if path.exists():
            shutil.rmtree(path)
            self.sync_directory(path.parent)

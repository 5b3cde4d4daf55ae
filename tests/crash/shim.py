"""The shim of `powercut.c`: compiled here, and loaded into a process that is about to be killed."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("powercut.c")
BEFORE, BEHIND, HALF = 0, 1, 2
KINDS = ("", "create", "write", "truncate", "rename", "unlink", "mkdir", "link", "sync", "missed", "killed")
CREATE, WRITE, TRUNCATE, RENAME, UNLINK, MKDIR, LINK, SYNC, MISSED, KILLED = range(1, 11)
TAKES_ROOM = [CREATE, WRITE, MKDIR]
_HEAD = struct.Struct("<IIQQII")


@dataclass(frozen=True, slots=True)
class Record:
    """What a process did. `offset` of a write, or the size that a file was cut to; `data` written, or the new name."""

    kind: int
    detail: int
    inode: int
    offset: int
    path: str
    data: bytes

    def told(self) -> str:
        """For a kill: what was to be done, or was just done, with which kind of file."""
        name = Path(self.path).name.removesuffix(" (deleted)")
        place = name if name in _NAMES else next((told for part, told in _PLACES if part in self.path), "folder")
        return f"{KINDS[self.detail]} {'backup: ' if '/backups/' in self.path else ''}{place}"


_NAMES = {"bank.db", "bank.db-wal", "bank.db-shm", "bank.db-journal", "FORMAT", "LOCK", "BACKUP"}
_PLACES = (
    (".vec", "segment"),
    ("lexical", "lexical"),
    ("plan.json", "plan"),
    ("vectors.index", "vector index"),
    (".FORMAT", "FORMAT"),
)


def records(journal: Path) -> Iterator[Record]:
    """What stands in a journal, as far as it is whole."""
    data, at = journal.read_bytes(), 0
    while at + _HEAD.size <= len(data):
        kind, detail, inode, offset, path_bytes, data_bytes = _HEAD.unpack_from(data, at)
        start, end = at + _HEAD.size, at + _HEAD.size + path_bytes + data_bytes
        if end <= len(data):
            path = os.fsdecode(data[start : start + path_bytes])
            yield Record(kind, detail, inode, offset, path, data[start + path_bytes : end])
        at = end


def compiled() -> Path:
    """The shim as a library; made where it is not there. `OSError` says why it can't be."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("there is no C compiler (gcc) to make the shim with")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"embank-powercut-{os.getuid()}-{digest}.so"
    if not library.exists():
        made = library.with_suffix(f".{os.getpid()}")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            raise OSError(f"the shim can't be compiled: {told.stderr}")
        made.rename(library)
    return library


class Shim:
    """Watches what this process does below `root`, from now until its end."""

    def __init__(self, library: Path, root: Path, *, journal: int, writes: bool = False, syncs: bool = True) -> None:
        """`journal` is a descriptor. With `writes`, what is written is kept in it as well; without `syncs`, a
        synchronisation is not, as if the disk had ignored it. Nothing is really synchronised, which saves time."""
        self._library = ctypes.CDLL(str(library))
        self._library.counted_so_far.restype = ctypes.c_long
        self._library.kill_at_operation.argtypes = [ctypes.c_long, ctypes.c_int]
        self._library.fail_operations.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        error = self._library.watch(os.fsencode(root.resolve()), journal, int(writes), int(syncs))
        if error:
            raise OSError(error, f"system calls can't be watched here: {os.strerror(error)}")

    def operations(self) -> int:
        """How many there were so far: files created, written, cut, renamed, removed or synchronised."""
        return int(self._library.counted_so_far())

    def kill_in(self, operations: int, part: int) -> None:
        """Kill this process at the so many-th operation from now: before it, behind it, or (a write) half through."""
        self._library.kill_at_operation(self.operations() + operations, part)

    def fail(self, first: int, last: int, error: int, kinds: list[int]) -> None:
        """Let the first to last operation from now fail with `error`, where they are of one of `kinds`."""
        so_far = self.operations()
        self._library.fail_operations(so_far + first, so_far + last, error, sum(1 << kind for kind in kinds))

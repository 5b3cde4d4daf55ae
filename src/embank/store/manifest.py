"""The file BACKUP of a backup: the checksum of every file in it, so that one changed bit is found.

It holds for as long as nobody writes: whoever opens a backup for writing makes an ordinary bank of it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from embank.system.files import Files

MANIFEST = "BACKUP"
BLOCK_BYTES = 1_048_576


def checksum(path: Path) -> str:
    """BLAKE2b of a file's bytes, read in blocks."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while data := file.read(BLOCK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def write(root: Path, *, files: Files) -> None:
    """Record the checksums of all that is in `root`."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    sums = {path.relative_to(root).as_posix(): checksum(path) for path in paths}
    files.replace(root / MANIFEST, json.dumps({"files": sums}, indent=1).encode())


def drop(root: Path, *, files: Files) -> None:
    """Forget them, for the bank is about to change."""
    if (root / MANIFEST).exists():
        (root / MANIFEST).unlink()
        files.sync_directory(root)


def differing(root: Path) -> list[str]:
    """Names of the files that are not as they were backed up; none where `root` is no backup, or no longer one."""
    try:
        recorded = json.loads((root / MANIFEST).read_bytes())["files"]
        return sorted(name for name, value in recorded.items() if not _is_same(root / name, value))
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError):
        return [MANIFEST]


def _is_same(path: Path, recorded: str) -> bool:
    try:
        return checksum(path) == recorded
    except OSError:
        return False

"""A small JSON file with a checksum, replaced whole."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from embank.system.files import Files


def write(path: Path, value: object, *, files: Files) -> None:
    """Put `value` at `path`, durably, whole or not at all. Raises `OSError`."""
    content = json.dumps(value, separators=(",", ":")).encode()
    files.make_directory(path.parent)
    files.replace(path, b"%08x\n" % zlib.crc32(content) + content)


def read(path: Path) -> Any:
    """What was written; `None` where there is no file. Raises `ValueError` for a damaged one, and `OSError`."""
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if checksum != b"%08x" % zlib.crc32(content):
        raise ValueError(f"the checksum over {path.name} differs")
    return json.loads(content)

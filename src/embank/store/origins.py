"""Whether a document's id is already taken by another file.

Ids of files are relative to the folder that was indexed, so two folders can claim the same id. The file that is still
there keeps it; a folder that was moved takes its documents along.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from embank.records import Document
from embank.store.protocol import Known


def belongs_elsewhere(held: Known, root: str | None, document: Document) -> bool:
    """Whether the id is held by a file that still exists and is not the one `document` comes from."""
    if held.root == root or held.root is None or root is None:
        return False
    there, here = _file(held.root, held.origin), _file(root, document.origin)
    return there is not None and here is not None and there != here and there.exists()


def _file(root: str, origin: str | None) -> Path | None:
    parts = urlsplit(root)
    if parts.scheme != "file" or origin is None:
        return None
    place = Path(unquote(parts.path))
    return place if place.name == origin and not place.is_dir() else place / origin

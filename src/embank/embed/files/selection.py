"""Which files of a repository an engine needs: weights in one safe form, the tokenizer, the configuration.

By name alone. Pickles (`.bin`, `.pt`, `.ckpt`), code and weights for other frameworks are never among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from embank.embed.files.hub import Listing, RemoteFile
from embank.errors import HubError, ModelFileError

Form = Literal["safetensors", "onnx"]

# Paths at the root, or one folder down where sentence-transformers keeps its modules. Anything else, `..` above all,
# fits none of them.
_SMALL = re.compile(
    r"(?:[0-9]_[A-Za-z0-9]+/)?[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.safetensors\.index)?\.json|vocab\.txt|merges\.txt|[a-z.]+\.model"
)
_SAFETENSORS = re.compile(r"model(?:-[0-9]+-of-[0-9]+)?\.safetensors|[0-9]_[A-Za-z0-9]+/model\.safetensors")
_ONNX = ("onnx/model.onnx", "model.onnx")
_PICKLES = re.compile(r".*\.(?:bin|pt|pth|ckpt|pkl)")
# Small files are for reading whole; a larger `.json` is no configuration.
_SMALL_BYTES = 64 << 20


def select(listing: Listing, form: Form | None) -> dict[str, RemoteFile]:
    """The files to download. `form` None takes safetensors where there are some, else ONNX.

    Raises `ModelFileError` where the repository has no weights in that form, `HubError` for a file without a checksum.
    """
    files = listing.files
    chosen = {path: file for path, file in files.items() if _SMALL.fullmatch(path) and file.bytes <= _SMALL_BYTES}
    weights = {path: file for path, file in files.items() if _SAFETENSORS.fullmatch(path)}
    if form == "onnx" or (form is None and not weights):
        weights = _onnx(files)
    if not weights:
        raise _no_weights(listing, form)
    chosen.update(weights)
    for path, file in chosen.items():
        if file.checksum is None:
            raise HubError(f"the hub tells no checksum of {listing.repository}/{path}: it is not downloaded", file=path)
    return dict(sorted(chosen.items()))


def _onnx(files: Mapping[str, RemoteFile]) -> dict[str, RemoteFile]:
    """The plain export, with the file beside it that large ones keep their weights in."""
    path = next((path for path in _ONNX if path in files), None)
    if path is None:
        return {}
    return {name: files[name] for name in (path, f"{path}_data", f"{path}.data") if name in files}


def _no_weights(listing: Listing, form: Form | None) -> ModelFileError:
    pickles = sorted(path for path in listing.files if _PICKLES.fullmatch(path))
    wanted = form or "safetensors or ONNX"
    has = f"; it has {pickles[0]}, a pickle, which can run code and is never loaded" if pickles else ""
    return ModelFileError(
        f"{listing.repository} has no weights in {wanted} at revision {listing.revision[:12]}{has}: name a revision "
        f"that has some, or another model",
        repository=listing.repository,
        revision=listing.revision,
    )

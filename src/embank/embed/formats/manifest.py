"""What lies in a converted model's folder, and whether it still does.

The manifest says which sources the model was made from and what its files are; it is checked whenever the model is
loaded, so that an altered or truncated file is found before it computes anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embank.embed.files.checksum import blake2b_of
from embank.embed.formats.folder import BertShape, Description, read_json
from embank.errors import ModelFileError

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """`sources` maps source files to SHA-256, `files` the converted ones to their bytes and BLAKE2b-256.

    `weights` is the SHA-256 of the source's weights (of those of several files' digests), empty where there is one file
    only, model.safetensors. `shape` is None where nothing but the model's own graph says what it is.
    """

    name: str
    precision: str
    converter_version: int
    binary_version: int
    sources: Mapping[str, str]
    files: Mapping[str, Mapping[str, int | str]]
    shape: BertShape | None
    description: Description
    engine: str = "ct2"
    weights: str = ""

    @property
    def bert_shape(self) -> BertShape:
        """Of a model that is known to be a BERT encoder. Raises `ModelFileError` for one that is not."""
        if self.shape is None:
            raise ModelFileError(f"the converted model {self.name!r} does not say what shape it has", name=self.name)
        return self.shape

    def encoded(self) -> bytes:
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Raises `ModelFileError` when it is missing or not understood."""
    path = folder / NAME
    content = read_json(path)
    if content.pop("format", None) != FORMAT:
        raise ModelFileError(f"{path} is of another format than {FORMAT}", path=str(path))
    try:
        shape, description = content.pop("shape"), Description(**content.pop("description"))
        return Manifest(shape=None if shape is None else BertShape(**shape), description=description, **content)
    except (TypeError, KeyError) as error:
        raise ModelFileError(f"{path} is damaged: {error}", path=str(path)) from error


def check_converted(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest. Raises `ModelFileError` naming the first that differs."""
    for name, facts in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ModelFileError(f"{path} is missing: {error.strerror}", path=str(path)) from error
        if size != facts["bytes"]:
            problem = f"has {size} bytes where {facts['bytes']} were written"
        elif blake2b_of(path) != facts["blake2b"]:
            problem = "is not what was written: its checksum differs"
        else:
            continue
        raise ModelFileError(f"{path} {problem}", path=str(path))


def size_bytes(manifest: Manifest, name: str) -> int:
    """Bytes of one of the converted files."""
    value: Any = manifest.files[name]["bytes"]
    return int(value)

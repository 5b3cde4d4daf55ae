"""How an engine's own copy of a model is made and named: what differs between engines when they convert.

Covers where the weights of a source lie, what the converting child is told and may take, and how the result is
described. `embank.embed.formats.converted` does the rest, the same for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embank.embed.files.checksum import sha256_of
from embank.embed.formats.folder import WEIGHTS, BertShape, Description, read_description, read_shape

if TYPE_CHECKING:
    from embank.embed.formats.convert import Form


def only_safetensors(_: Path) -> tuple[str, ...]:
    """The one file that the BERT family's weights are in."""
    return (WEIGHTS,)


def describe_bert(folder: Path, _: Mapping[str, Any]) -> tuple[BertShape, Description]:
    """Shape and description as the folder's configuration files state them."""
    shape = read_shape(folder)
    return shape, read_description(folder, shape)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to convert.

    `label` stands in the copy's folder name before the precision, so that two engines' copies lie beside each other.
    `weight_files` names the files of a source folder that hold its weights; `child_bytes` is what the child takes with
    such a folder; `describe` is given the folder and what the child learned. `precision` is the one that the file is
    written in, where it is not the one asked for.
    """

    engine: str
    form: Form
    converter_version: int
    binary_version: int
    child_bytes: Callable[[Path], int]
    label: str = ""
    precision: str | None = None
    weight_files: Callable[[Path], tuple[str, ...]] = only_safetensors
    describe: Callable[[Path, Mapping[str, Any]], tuple[BertShape | None, Description]] = describe_bert

    def weights(self, folder: Path) -> dict[str, str]:
        """The SHA-256 of each file with weights. Raises `ModelFileError` where one can't be read."""
        return {name: sha256_of(folder / name) for name in self.weight_files(folder)}

    def stem(self, name: str, weights: str, precision: str) -> str:
        """The name of the copy's folder."""
        return f"{name}-{weights[:12]}-{self.label}{precision}-v{self.converter_version}"


def joined(weights: Mapping[str, str]) -> str:
    """One SHA-256 for weights in several files; of a single file its own."""
    if len(weights) == 1:
        return next(iter(weights.values()))
    listed = "".join(f"{name} {digest}\n" for name, digest in sorted(weights.items()))
    return hashlib.sha256(listed.encode()).hexdigest()

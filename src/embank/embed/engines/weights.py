"""A torch model's weights on disk: one safetensors file, or several with an index, validated before anything is read.

Pickled weights are not read, ever. Reading gives torch tensors of their own memory.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from embank.embed.formats.safetensors import SafetensorsFile
from embank.errors import ModelFileError


def weight_files(weights: Path) -> list[Path]:
    """The safetensors files that `weights` stands for: itself, or those that it lists."""
    return sorted({weights.parent / name for name in _index(weights).values()}) if _is_index(weights) else [weights]


class Weights:
    """One safetensors file or several, validated; tensors by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = ExitStack()
        self._readers: dict[Path, Any] = {}
        self._file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in weight_files(path):
            with SafetensorsFile(file) as checked:
                self._file_of.update(dict.fromkeys(checked.entries, file))
                self.shapes.update({name: entry.shape for name, entry in checked.entries.items()})
        for name in _index(path) if _is_index(path) else ():
            if name not in self._file_of:
                raise ModelFileError(f"{path} names the tensor {name!r}, which its files lack", path=str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.clear()
        self._open.close()

    def read(self, name: str, device: str, dtype: Any) -> Any:
        """A tensor of its own memory; the file's pages are only mapped while it is copied."""
        import torch
        from safetensors import safe_open

        file = self._file_of[name]
        if file not in self._readers:
            self._readers[file] = self._open.enter_context(safe_open(str(file), framework="pt", device="cpu"))
        mapped = self._readers[file].get_tensor(name)
        wanted = dtype if dtype is not None and mapped.is_floating_point() else mapped.dtype
        return mapped.to(device=torch.device(device), dtype=wanted, copy=True)


def _is_index(path: Path) -> bool:
    return path.suffix == ".json"


def _index(path: Path) -> dict[str, str]:
    """Tensor -> file name, as an index lists them; a name may not lead out of its folder."""
    try:
        listed = json.loads(path.read_bytes())["weight_map"]
        pairs = {str(name): str(file) for name, file in listed.items()}
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror or error}", path=str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is no index of safetensors files: {error}", path=str(path)) from error
    for file in pairs.values():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelFileError(f"{path} lists {file!r}, which is no safetensors file beside it", path=str(path))
    return pairs

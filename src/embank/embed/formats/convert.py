"""The converting child: `python -m embank.embed.formats.convert --source FOLDER --target FOLDER --precision int8`.

Writes model.bin, config.json and vocabulary.json for CTranslate2, or with `--form onnx` an ONNX graph and its weights,
and a copy of the tokenizer into an existing, empty folder, with fsync, and prints JSON lines: `{"fraction", "step"}` as
it goes, at last `{"done", "peak_bytes", "files", "facts"}` or `{"error", "fields"}` (exit status 3). It runs as a
process of its own so that its memory is gone when it is done, and it imports numpy at most, for ONNX its package, too:
no runtime and no torch.

Does not verify, name, lock or move anything: `embank.embed.formats.converted` does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self, cast

from embank.errors import ModelFileError

if TYPE_CHECKING:
    from embank.embed.formats.folder import BertShape
    from embank.embed.model import Precision

Form = Literal["ct2", "onnx"]
Files = dict[str, dict[str, int | str]]

FAILED_STATUS = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the child; the exit status."""
    from embank.memory import hygiene

    hygiene.apply()
    parser = argparse.ArgumentParser(prog="python -m embank.embed.formats.convert", description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--precision", choices=("int8", "float32", "float16"), required=True)
    parser.add_argument("--form", choices=("ct2", "onnx"), default="ct2")
    given = parser.parse_args(arguments)
    peak = _Peak()
    try:
        files, facts = convert(
            given.source,
            given.target,
            given.precision,
            form=given.form,
            on_progress=_reporter(),
            on_write=peak.sample,
        )
    except ModelFileError as error:
        _say(error=error.message, fields={key: str(value) for key, value in error.fields.items()})
        return FAILED_STATUS
    _say(done=True, peak_bytes=peak.bytes, files=files, facts=facts)
    return 0


def convert(
    source: Path,
    target: Path,
    precision: Precision,
    *,
    form: Form = "ct2",
    on_progress: Callable[[float, str], None],
    on_write: Callable[[], None] = lambda: None,
) -> tuple[Files, dict[str, Any]]:
    """Convert `source` into the empty folder `target`.

    Answers the bytes and the BLAKE2b-256 of each file written, and what was learned of an exported model. `on_write` is
    called at each write to the model's file, when a block is in hand. Raises `ModelFileError` when the source is
    damaged or not understood, `OSError` when the target can't be written.
    """
    from embank.embed.formats.folder import TOKENIZER

    write = _write_onnx if form == "onnx" else _write_ct2
    files, facts = write(source, target, precision, on_progress, on_write)
    tokenizer = source / TOKENIZER
    if not tokenizer.is_file():
        raise ModelFileError(f"the model has no tokenizer: {tokenizer} is missing", path=str(tokenizer))
    with tokenizer.open("rb") as given, _Written(target / TOKENIZER) as out:
        shutil.copyfileobj(given, out)
    files[TOKENIZER] = out.facts
    return files, facts


def _write_ct2(
    source: Path,
    target: Path,
    precision: Precision,
    on_progress: Callable[[float, str], None],
    on_write: Callable[[], None],
) -> tuple[Files, dict[str, Any]]:
    from embank.embed.formats import ctformat
    from embank.embed.formats.folder import WEIGHTS, read_shape
    from embank.embed.formats.safetensors import SafetensorsFile

    if precision not in ("int8", "float32"):
        raise ModelFileError(f"CTranslate2's files are written in int8 and float32, not in {precision}")
    shape = read_shape(source)
    files: Files = {}
    with SafetensorsFile(source / WEIGHTS) as weights:
        variables = ctformat.bert_variables(shape, weights)
        with _Written(target / "model.bin", on_write) as out:
            ctformat.write_model(out, weights, variables, precision, on_progress=on_progress)
        files["model.bin"] = out.facts
    for name, content in _companions(shape).items():
        with _Written(target / name) as out:
            out.write(content)
        files[name] = out.facts
    return files, {}


def _write_onnx(
    source: Path,
    target: Path,
    precision: Precision,
    on_progress: Callable[[float, str], None],
    on_write: Callable[[], None],
) -> tuple[Files, dict[str, Any]]:
    from embank.embed.formats.onnxconvert import MODEL_FILE, write_graph
    from embank.embed.formats.onnxfile import DATA_FILE

    # bfloat16 is computed from float32 weights, and is never a file's.
    stored = cast('Literal["int8", "float32", "float16"]', precision)
    with _Written(target / DATA_FILE, on_write) as data:
        content, facts = write_graph(source, data, stored, on_progress=on_progress)
    with _Written(target / MODEL_FILE) as out:
        out.write(content)
    return {DATA_FILE: data.facts, MODEL_FILE: out.facts}, facts


def _companions(shape: BertShape) -> dict[str, bytes]:
    """config.json and vocabulary.json.

    CTranslate2 translates token strings by the vocabulary, which Embank never has it do: it hands over ids. So one
    token is listed, which saves 4 MB of memory in every process that loads a model of 30,000 words.
    """
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "layer_norm_epsilon": shape.layer_norm_epsilon,
        "multi_query_attention": False,
        "unk_token": "[UNK]",
    }
    return {
        "config.json": (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        "vocabulary.json": json.dumps(["[UNK]"], indent=2).encode(),
    }


class _Written:
    """A new file that hashes what is written to it and is on the disk when the context ends."""

    def __init__(self, path: Path, on_write: Callable[[], None] = lambda: None) -> None:
        self._on_write = on_write
        self._file: IO[bytes] = path.open("xb", buffering=1 << 16)
        self._digest = hashlib.blake2b(digest_size=32)
        self._bytes = 0
        self.facts: dict[str, int | str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self.facts = {"bytes": self._bytes, "blake2b": self._digest.hexdigest()}

    def write(self, data: bytes | memoryview) -> int:
        self._on_write()
        self._digest.update(data)
        written = self._file.write(data)
        self._bytes += written
        return written


class _Peak:
    """The most anonymous memory seen when sampled. The kernel keeps no high-water mark of it.

    Stays 0 where there is no /proc, which says "not measured".
    """

    def __init__(self) -> None:
        self.bytes = 0

    def sample(self) -> None:
        try:
            with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 — called a hundred times
                line = next((line for line in status if line.startswith("RssAnon")), None)
        except OSError:
            return
        if line is not None:
            self.bytes = max(self.bytes, int(line.split()[1]) * 1024)


def _reporter() -> Callable[[float, str], None]:
    """Prints a line for each hundredth that was done."""
    last = -1

    def report(fraction: float, step: str) -> None:
        nonlocal last
        if int(fraction * 100) > last:
            last = int(fraction * 100)
            _say(fraction=round(fraction, 3), step=step)

    return report


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    from embank.system.process import die_with_parent

    die_with_parent()  # whoever asked for the conversion is gone then, and its lock with it
    sys.exit(main())
